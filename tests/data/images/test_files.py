"""ImageFiles of every kind against what they hold; tables that are right and wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ids3d.data.images.files import ImageFiles, read_image, tabletop_task
from ids3d.errors import UserError

GRID = np.arange(12 * 16).reshape(12, 16)


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def colours() -> np.ndarray:
    return np.stack([GRID, 255 - GRID, GRID // 2], axis=-1).astype(np.uint8)


def test_a_plain_picture_is_taken_as_it_is(tmp_path: Path) -> None:
    picture = read_image(save(tmp_path / "a.png", colours()))
    assert picture.notes == () and torch.equal(picture.rgb, torch.from_numpy(colours()).float() / 255)


def test_grey_pictures_become_three_equal_channels(tmp_path: Path) -> None:
    grey = read_image(save(tmp_path / "a.png", GRID.astype(np.uint8)))
    assert "grey" in grey.notes[0]
    assert torch.equal(grey.rgb, (torch.from_numpy(GRID).float() / 255)[..., None].expand(-1, -1, 3))


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    deep = read_image(save(tmp_path / "a.png", (GRID * 340).astype(np.uint16)))
    assert "more than 8 bits" in deep.notes[0]
    torch.testing.assert_close(
        deep.rgb[..., 1], torch.from_numpy(GRID * 340 / 65535).float(), atol=1e-4, rtol=0
    )


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    rgba = np.concatenate([colours(), np.full((12, 16, 1), 255, np.uint8)], axis=-1)
    opaque = read_image(save(tmp_path / "a.png", rgba))
    assert opaque.notes == () and torch.equal(opaque.rgb, torch.from_numpy(colours()).float() / 255)
    rgba[:, :8, 3], rgba[:, 8:, 3] = 0, 51
    mixed = read_image(save(tmp_path / "b.png", rgba))
    assert "white" in mixed.notes[0] and (mixed.rgb[:, :8] == 1).all()
    expected = 0.2 * colours()[:, 8:] / 255 + 0.8
    assert np.abs(mixed.rgb[:, 8:].numpy() - expected).max() < 0.004


@pytest.mark.parametrize("mode", ["P", "CMYK", "1", "LA"])
def test_other_kinds_are_converted_with_a_note(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    picture = read_image(save(tmp_path / f"a.{suffix}", colours(), mode))
    assert picture.rgb.shape == (12, 16, 3) and (mode == "LA" or picture.notes)
    assert picture.rgb.min() >= 0 and picture.rgb.max() <= 1


def test_a_moving_picture_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = read_image(tmp_path / "a.gif")
    assert "first of 3 frames" in picture.notes[0] and (picture.rgb == torch.tensor([1.0, 0, 0])).all()


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture = read_image(save(tmp_path / "a.png", colours(), exif=exif))
    assert torch.equal(picture.rgb, torch.from_numpy(colours()).float().div(255).rot90(-1))


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    whole = save(tmp_path / "b.png", np.tile(colours(), (20, 20, 1))).read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    save(tmp_path / "c.png", colours()[:1, :1])
    for name, part in (("a", "cannot be read"), ("b", "cannot be read"), ("c", "1x1"), ("d", "no such file")):
        with pytest.raises(UserError, match=part):
            read_image(tmp_path / f"{name}.png")


def test_a_table_of_prompts(tmp_path: Path) -> None:
    save(tmp_path / "cat.png", colours())
    (tmp_path / "two").mkdir()
    save(tmp_path / "two" / "source.png", colours())
    save(tmp_path / "two" / "truth.png", 255 - colours())
    save(tmp_path / "two" / "mask.png", np.where(GRID > 90, 255, 0).astype(np.uint8))
    (tmp_path / "prompts.csv").write_text("name,kind,source,target\ncat.png,x,a cat,a dog\ntwo,y,a,b\n")
    cat, two = ImageFiles(ImageFiles.Config(folder=str(tmp_path))).tasks(64)
    assert (cat.name, cat.source, cat.target) == ("cat", "a cat", "a dog")
    assert torch.equal(cat.read().rgb, torch.from_numpy(colours()).float() / 255)
    read = two.read()
    assert read.truth is not None and read.mask is not None
    assert torch.equal(read.truth, 1 - read.rgb) or torch.allclose(read.truth, 1 - read.rgb, atol=1e-6)
    assert torch.equal(read.mask, torch.from_numpy(GRID > 90))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "no such table"),
        ("name,source\na.png,b\n", "no column target"),
        ("name,source,target\n", "no rows"),
        ("name,source,target\na.png,x,y\na.png,x,y\n", "line 3: a.png is there twice"),
        ("name,source,target\na.png,x,y\na.jpg,x,y\n", "line 3: a.jpg and a.png would share one folder"),
        (
            "name,source,target\ns/a.png,x,y\ns_a.png,x,y\n",
            "line 3: s_a.png and s/a.png would share one folder",
        ),
        (
            "name,source,target\na.png,a red cube, on a floor, a blue cube\n",
            "line 2: 4 values for 3 columns; a prompt that has a comma goes in quotes",
        ),
        ("name,source,target\na.png,a red cube\n", "line 2: fewer values than name, source, target"),
        ('name,source,target\na.png,"a red cube,a blue cube\nb.png,x,y\n', "cannot be read as CSV"),
        ("name,source,target,target\na.png,x,y,z\n", "a column is there twice"),
        ("name,source,target\nresults.csv.png,x,y\n", "the run writes a file of that name"),
        ("name,source,target\n../a.png,x,y\n", "line 2: '../a.png' leads out"),
        ("name,source,target\n/etc/a.png,x,y\n", "line 2: '/etc/a.png' leads out"),
        ("name,source,target\ns/../../a.png,x,y\n", "leads out"),
        ("name,source,target\n...png,x,y\n", "no folder can be called so"),
        (f"name,source,target\n{'é' * 120}.png,x,y\n", "line 2: a name of more than 200 bytes"),
        ("name,source,target\n,x,y\n", "line 2: no name"),
    ],
)
def test_a_table_that_is_wrong(tmp_path: Path, text: str | None, part: str) -> None:
    if text is not None:
        (tmp_path / "prompts.csv").write_text(text)
    with pytest.raises(UserError, match=part):
        ImageFiles(ImageFiles.Config(folder=str(tmp_path))).tasks(64)


def test_a_table_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "prompts.csv")
    with pytest.raises(UserError, match="no plain file"):
        ImageFiles(ImageFiles.Config(folder=str(tmp_path))).tasks(64)


def test_commas_line_breaks_and_quotes_are_kept_in_quotes(tmp_path: Path) -> None:
    table = 'name,source,target\r\na.png,"a red cube, on a floor","a ""blue""\ncube"\r\n'
    (tmp_path / "prompts.csv").write_bytes(b"\xef\xbb\xbf" + table.encode())
    (task,) = ImageFiles(ImageFiles.Config(folder=str(tmp_path))).tasks(64)
    assert (task.name, task.source, task.target) == ("a", "a red cube, on a floor", 'a "blue"\ncube')


def test_a_single_image_called_like_a_file_of_the_run(tmp_path: Path) -> None:
    for name in ("results.csv.png", "config.yaml.jpg"):
        save(tmp_path / name, colours())
        with pytest.raises(UserError, match="rename the image"):
            ImageFiles(ImageFiles.Config(image=str(tmp_path / name))).tasks(64)


def test_a_folder_or_a_picture_that_is_not_there() -> None:
    for given in ({"image": "/nowhere/a.png"}, {"folder": "/nowhere"}):
        with pytest.raises(UserError, match="nowhere"):
            ImageFiles(ImageFiles.Config(**given)).tasks(64)
    with pytest.raises(ValueError, match="one of them"):
        ImageFiles.Config(image="a", folder="b")


def test_tabletop_edits_bring_their_truth() -> None:
    read = tabletop_task(0, 32).read()
    assert read.rgb.shape == (32, 32, 3) and read.truth is not None and read.mask is not None
    changed = (read.rgb - read.truth).abs().amax(-1) > 0.05
    assert (changed & read.mask).sum() > 0.9 * changed.sum()
    assert {tabletop_task(i, 8).name.rpartition("-")[2] for i in range(3)} == {"recolour", "reshape", "floor"}
