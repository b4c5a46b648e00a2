"""Images on disk: orientation, transparency, modes, reduction."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ids3d.data.scenes import photographs as module
from ids3d.data.scenes.photographs import (
    Photograph,
    find_photographs,
    inspect,
    read_masks,
    read_photographs,
    same_proportions,
)
from ids3d.data.scenes.undistortion import undistortion_of
from ids3d.errors import UserError
from ids3d.lenses import Lens, RadialTangential


def gradient(height: int, width: int) -> np.ndarray:
    rows, cols = np.mgrid[:height, :width]
    return np.stack([rows * 5, cols * 5, rows * 0 + 77], axis=-1).astype(np.uint8)


def read(
    path: Path, full: tuple[int, int], background: tuple[float, float, float] = (0, 0, 0)
) -> torch.Tensor:
    photograph = inspect(path, *full)
    return read_photographs([photograph], photograph.height, photograph.width, background)[0][0]


def test_bytes_come_back_exactly(tmp_path: Path) -> None:
    pixels = gradient(6, 8)
    Image.fromarray(pixels).save(tmp_path / "a.PNG")
    torch.testing.assert_close(read(tmp_path / "a.PNG", (80, 60)), torch.from_numpy(pixels).float() / 255)


@pytest.mark.parametrize(("full", "shape"), [((80, 60), (6, 8)), ((60, 80), (8, 6))])
def test_orientation_is_applied_only_where_the_poses_want_it(
    tmp_path: Path, full: tuple[int, int], shape: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise for display
    pixels = gradient(6, 8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    found = read(tmp_path / "a.png", full)
    expected = pixels if shape == (6, 8) else np.rot90(pixels, -1)
    torch.testing.assert_close(found, torch.from_numpy(expected.copy()).float() / 255)


def test_transparency_is_laid_over_the_background(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (200, 100, 0, 255)
    pixels[2:] = (255, 255, 255, 0)  # hidden white must not leak
    pixels[0, 0] = (200, 100, 0, 128)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png", (4, 4), (0.0, 0.5, 1.0))
    torch.testing.assert_close(found[3, 3], torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(found[1, 1], torch.tensor([200, 100, 0]) / 255)
    alpha = 128 / 255
    expected = alpha * torch.tensor([200, 100, 0]) / 255 + (1 - alpha) * torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(found[0, 0], expected, atol=1 / 255, rtol=0)
    half, opacity = read_photographs([inspect(tmp_path / "a.png", 4, 4)], 2, 2, (0.0, 0.0, 0.0))
    half = half[0]
    assert opacity is not None and opacity[0, 0].min() > 0.8 and opacity[0, 1].max() < 0.1
    assert float(half[1].max()) < 0.1  # nothing but Lanczos' small lobes of what is above


@pytest.mark.parametrize("mode", ["L", "P", "LA", "CMYK", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.full((4, 4), 255, np.uint8)).convert("RGB")
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    grey.convert(mode).save(path)
    torch.testing.assert_close(read(path, (4, 4)), torch.ones(4, 4, 3), atol=2 / 255, rtol=0)


def test_reduction_averages(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    small, opacity = read_photographs([inspect(tmp_path / "a.png", 64, 64)], 4, 4, (0, 0, 0))
    assert opacity is None
    assert float(small.mean()) == pytest.approx(pixels.mean() / 255, abs=0.01)
    assert float(small.std()) < 0.1 * pixels.std() / 255 + 0.02


def test_masks_are_averaged_and_cut_at_half(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4), np.uint8)
    pixels[:2, :2] = 255
    pixels[:2, 2] = 255  # half of its 2x2 block, and a quarter below
    pixels[2, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert read_masks([tmp_path / "m.png"], 2, 2)[0].tolist() == [[True, True], [False, False]]


def test_files_are_sorted_by_name_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "C.jpeg", "._a.png", "notes.txt", "d.webp"):
        (tmp_path / name).touch()
    (tmp_path / "e.png").mkdir()
    assert [p.name for p in find_photographs(tmp_path)] == ["C.jpeg", "a.png", "b.JPG"]


@pytest.mark.parametrize(
    ("size", "full", "same"),
    [
        ((456, 456), (3648, 3648), True),
        ((504, 378), (4032, 3024), True),
        ((44, 36), (320, 240), False),
        ((46, 34), (320, 240), True),  # 45.7 x 34.3
        ((1008, 567), (4032, 3024), False),
        ((378, 504), (4032, 3024), False),
    ],
)
def test_proportions_up_to_rounding(size: tuple[int, int], full: tuple[int, int], same: bool) -> None:
    assert same_proportions(*size, *full) is same


def test_a_cropped_picture_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (50, 50)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="50x50"):
        inspect(tmp_path / "a.png", 80, 60)


@pytest.mark.parametrize("turned", [False, True])
def test_a_jpeg_is_decoded_small_and_looks_the_same(
    tmp_path: Path, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = torch.linspace(0, 9, 640)
    picture = ((side[:480, None, None] + 1.3 * side[None, :, None] + torch.tensor([0.0, 1, 2])).sin() + 1) / 2
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray((picture * 255).byte().numpy()).save(
        tmp_path / "a.jpg", quality=95, **({"exif": exif} if turned else {})
    )
    decoded = []
    load = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, *a, **k: decoded.append(self.size) or load(self, *a, **k)
    )
    size = (40, 30) if turned else (30, 40)  # height, width
    found = read_photographs([inspect(tmp_path / "a.jpg", size[1], size[0])], *size, (0, 0, 0))[0][0]
    assert decoded == [(80, 60)[:: -1 if turned else 1]]  # of 640x480: twice what is wanted
    upright = np.rot90((picture * 255).byte().numpy(), -1) if turned else (picture * 255).byte().numpy()
    expected = load(Image.fromarray(upright.copy()), size[::-1], Image.Resampling.LANCZOS)
    assert np.abs(found.numpy() * 255 - np.asarray(expected)).max() < 4


def test_threads_change_nothing_and_the_first_fault_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        mode = "RGBA" if i % 3 == 0 else "RGB"
        pixels = rng.integers(0, 256, (60, 80, len(mode)), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02d}.png")
    photographs = [inspect(path, 80, 60) for path in find_photographs(tmp_path)]
    lens = Lens(80, 60, 70, 70, 40, 30, RadialTangential(-0.1))
    undo = [undistortion_of(lens) if i % 2 else None for i in range(12)]
    made = {}
    for threads in (1, 7):
        monkeypatch.setattr("ids3d.data.scenes.photographs._THREADS", threads)
        monkeypatch.setattr("os.cpu_count", lambda: 7)
        made[threads] = read_photographs(photographs, 30, 40, (0.2, 0.4, 0.6), undo)
    for one, many in zip(made[1], made[7], strict=True):
        assert one is not None and many is not None and torch.equal(one, many)
    for i in (9, 4):
        (tmp_path / f"{i:02d}.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"04\.png"):
        read_photographs(photographs, 30, 40, (0, 0, 0))


def test_no_more_images_are_held_at_full_size_than_there_are_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (320, 240), "red").save(tmp_path / "a.png")
    alive, most, decode = [], [], module._decode

    def counted(photograph: Photograph, size: tuple[int, int]) -> Image.Image:
        image = decode(photograph, size)
        alive.append(weakref.ref(image))
        most.append(sum(ref() is not None for ref in alive))
        return image

    monkeypatch.setattr(module, "_decode", counted)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    read_photographs([inspect(tmp_path / "a.png", 320, 240)] * 40, 15, 20, (0, 0, 0))
    assert len(most) == 40 and max(most) <= 3


def test_long_reading_shows_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    photographs = [inspect(tmp_path / "a.png", 8, 6)] * 3
    read_photographs(photographs, 6, 8, (0, 0, 0))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("ids3d.data.scenes.photographs.QUICK", 0.0)
    read_photographs(photographs, 6, 8, (0, 0, 0))
    assert "reading images: 3/3" in capsys.readouterr().err
