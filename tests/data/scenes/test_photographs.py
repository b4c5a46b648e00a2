"""Images on disk: orientation, transparency, modes, reduction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ids3d.data.scenes.photographs import (
    find_photographs,
    inspect,
    read_masks,
    read_photographs,
    same_proportions,
)
from ids3d.errors import UserError


def gradient(height: int, width: int) -> np.ndarray:
    rows, cols = np.mgrid[:height, :width]
    return np.stack([rows * 5, cols * 5, rows * 0 + 77], axis=-1).astype(np.uint8)


def read(
    path: Path, full: tuple[int, int], background: tuple[float, float, float] = (0, 0, 0)
) -> torch.Tensor:
    photograph = inspect(path, *full)
    return read_photographs([photograph], photograph.height, photograph.width, background)[0]


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
    half = read_photographs([inspect(tmp_path / "a.png", 4, 4)], 2, 2, (0.0, 0.0, 0.0))[0]
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
    small = read_photographs([inspect(tmp_path / "a.png", 64, 64)], 4, 4, (0, 0, 0))
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
