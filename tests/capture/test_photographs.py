"""Photographs are turned upright, their lens is read from EXIF, and odd ones are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ids3d.capture import photographs
from ids3d.capture.pictures import Pictures, take_photographs
from ids3d.errors import UserError

RED, GREEN, BLUE, WHITE = (250, 10, 10), (10, 250, 10), (10, 10, 250), (245, 245, 245)


def quarters(width: int = 64, height: int = 48) -> Image.Image:
    """Red, green over blue, white."""
    image = Image.new("RGB", (width, height))
    for k, colour in enumerate((RED, GREEN, BLUE, WHITE)):
        image.paste(colour, (k % 2 * width // 2, k // 2 * height // 2, (k % 2 + 1) * width // 2, height))
    return image


# How a camera stores an upright picture under each EXIF orientation: what undoes it, backwards.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def save(path: Path, image: Image.Image, orientation: int = 1, **tags: object) -> None:
    """Save an upright image as a camera would, with EXIF tags of its own by their names."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    numbers = {"film": 0xA405, "focal": 0x920A, "density": 0xA20E, "unit": 0xA210, "width": 0xA002}
    inner = exif.get_ifd(0x8769)
    for name, value in tags.items():
        if name == "model":
            exif[0x0110] = value
        else:
            inner[numbers[name]] = value
    turn = STORED[orientation]
    (image if turn is None else image.transpose(turn)).save(path, exif=exif, quality=95, subsampling=0)


def assert_upright(image: Image.Image) -> None:
    places = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]
    for (x, y), colour in zip(places, (RED, GREEN, BLUE, WHITE), strict=True):
        seen = np.array(image.getpixel((int(x * image.width), int(y * image.height))))
        assert np.abs(seen - colour).max() < 12


@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_is_turned_upright(orientation: int, tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", quarters(), orientation)
    found = photographs.inspect(tmp_path / "a.jpg")
    assert (found.width, found.height) == (64, 48)
    assert_upright(photographs.load(tmp_path / "a.jpg"))


def test_focal_lengths(tmp_path: Path) -> None:
    save(tmp_path / "film.jpg", quarters(400, 300), 6, film=26, model="A phone")
    found = photographs.inspect(tmp_path / "film.jpg")
    assert found.focal == pytest.approx(26 * 500 / 43.2666, rel=1e-4)  # by the diagonals
    assert "A phone" in found.lens
    # 8 mm at 100 pixels a millimetre of a sensor of 800 pixels, of which the picture has half
    save(tmp_path / "sensor.jpg", quarters(400, 300), focal=8.0, density=2540.0, unit=2, width=800)
    assert photographs.inspect(tmp_path / "sensor.jpg").focal == pytest.approx(400)
    save(tmp_path / "none.jpg", quarters(), film=0, focal=8.0)
    none = photographs.inspect(tmp_path / "none.jpg")
    assert none.focal is None and none.lens == ""


def test_heic(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="HEIC needs the extra [capture]")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6  # left there by cameras, and not to be followed: HEIF has a rotation of its own
    exif.get_ifd(0x8769)[0xA405] = 26
    quarters(128, 96).save(tmp_path / "a.heic", exif=exif, quality=95)
    (path,) = photographs.find(tmp_path)
    found = photographs.inspect(path)
    assert (found.width, found.height) == (128, 96)
    assert found.focal == pytest.approx(26 * 160 / 43.2666, rel=1e-4)
    assert_upright(photographs.load(path))


def test_colours_and_transparency(tmp_path: Path) -> None:
    clear = quarters().convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    clear.save(tmp_path / "clear.png")
    assert photographs.load(tmp_path / "clear.png").getpixel((3, 3)) == (0, 0, 0)
    # A profile that is sRGB already changes nothing; a damaged one neither.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, bytes_of in (("srgb.png", profile), ("damaged.png", b"nothing")):
        quarters().save(tmp_path / name, icc_profile=bytes_of)
        assert_upright(photographs.load(tmp_path / name))
    Image.fromarray(np.zeros((40, 40), dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match="8 bits per channel"):
        photographs.load(tmp_path / "deep.png")


def test_damaged_photographs_are_named(tmp_path: Path) -> None:
    save(tmp_path / "whole.jpg", quarters(300, 200))
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"half\.jpg.*remove it"):
        photographs.load(tmp_path / "half.jpg")
    (tmp_path / "none.png").write_text("no picture")
    with pytest.raises(UserError, match=r"none\.png"):
        photographs.inspect(tmp_path / "none.png")


def test_pictures_are_of_one_size_with_plain_names(tmp_path: Path) -> None:
    source, stage = tmp_path / "source", tmp_path / "stage"
    source.mkdir()
    (stage / "images").mkdir(parents=True)
    for name in ("a b.jpg", "a_b.png", "ä\n.jpg", "-c.jpg"):
        save(source / name, quarters(200, 150), film=26)
    save(source / "big.jpg", quarters(400, 300), film=26)
    save(source / "portrait.jpg", quarters(150, 200), 6, film=26)
    save(source / "wide.jpg", quarters(200, 80))
    (source / ".hidden.jpg").write_text("hidden")
    take_photographs(stage, photographs.find(source), 100)
    made = Pictures.read(stage)
    assert (made.width, made.height) == (100, 75)
    by_source = {p.source: p for p in made.pictures}
    assert set(by_source) == {"a b.jpg", "a_b.png", "ä\n.jpg", "-c.jpg", "big.jpg", "portrait.jpg"}
    names = [p.name for p in made.pictures]
    assert len(set(names)) == len(names) and all(
        name.replace("_", "a").replace("-", "a")[:-4].isalnum() for name in names
    )
    for picture in made.pictures:
        with Image.open(stage / "images" / picture.name) as image:
            assert image.size == (100, 75)
            if picture.source != "portrait.jpg":
                assert_upright(image)
        assert picture.focal == pytest.approx(26 * 125 / 43.2666, rel=0.01)
    cameras = {p.camera for p in made.pictures if p.source != "portrait.jpg"}
    assert (
        len(cameras) == 2
    )  # that of 200 pixels and that of 400: EXIF says pixels for them, and they may differ
    assert by_source["portrait.jpg"].camera not in cameras
    assert any("portrait.jpg" in note and "side" in note for note in made.notes)
    assert any("wide.jpg" in note and "left out" in note for note in made.notes)
