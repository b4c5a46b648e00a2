"""Images, panels, films and their camera paths."""

from __future__ import annotations

import contextlib
import math
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from ids3d.cameras import Cameras, look_at
from ids3d.errors import UserError
from ids3d.images import (
    colour_depth,
    depth_range,
    depth_scale,
    difference,
    film_path,
    panel,
    save_image,
    save_video,
)
from ids3d.scene import CameraLayout

Y, Z = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])


def cameras_at(centres: torch.Tensor, focus: torch.Tensor, up: torch.Tensor) -> Cameras:
    n = len(centres)
    focal, half = torch.full((n,), 20.0), torch.full((n,), 8.0)
    return Cameras(look_at(centres, focus, up), focal, focal, half, half, 16, 16)


def test_an_image_comes_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    image = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0))
    save_image(tmp_path / "deep" / "a.png", image * 1.2 - 0.1)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]
    expected = (np.clip((image * 1.2 - 0.1).numpy(), 0, 1) * 255).round()
    np.testing.assert_allclose(iio.imread(tmp_path / "deep" / "a.png"), expected, atol=0)


def test_depth_colours_run_from_light_to_dark_in_even_steps() -> None:
    colours = colour_depth(torch.tensor([[1.0, 2.0, 100.0]]), near=1.0, far=100.0)[0]
    assert colours.shape == (3, 3) and colours.min() >= 0 and colours.max() <= 1
    # Lightness L* (CIELAB) falls from near to far, by as much in each fifth of the scale of 1 / depth.
    inverse = torch.linspace(0, 1, 6).clamp_min(1e-9)[None]
    lightness = rgb2lab(colour_depth(1 / inverse, 1.0, 1e9).numpy())[0, :, 0]
    steps = np.diff(lightness)
    assert lightness[0] < 20 and lightness[-1] > 85
    assert steps.min() > 0.8 * steps.mean() and steps.max() < 1.2 * steps.mean()


def test_where_nothing_is_a_depth_map_is_grey() -> None:
    empty = colour_depth(torch.tensor([[0.0, 1.0]]), near=1.0, far=3.0)[0, 0]
    assert empty.tolist() == [0.5, 0.5, 0.5]
    greys = torch.linspace(1, 3, 500)[None]
    assert (
        colour_depth(greys, 1.0, 3.0).sub(0.5).abs().amax(-1) > 0.15
    ).all()  # no depth is taken for nothing


def test_a_depth_scale_has_the_colours_of_its_map() -> None:
    near, far = 1.0, 4.0
    scale = depth_scale(near, far, height=101)
    assert scale.shape == (101, 64, 3)
    # Half way down is half of 1 / depth: 2 / (1 / 1 + 1 / 4) = 1.6.
    for row, depth in ((0, near), (50, 1.6), (100, far)):
        expected = colour_depth(torch.tensor([[depth]]), near, far)[0, 0]
        torch.testing.assert_close(scale[row, 8], expected, atol=2 / 255, rtol=0)
    sheet = panel({"depth map": torch.zeros(8, 8, 3)}, height=101, depths=(near, far))
    torch.testing.assert_close(sheet[18:, -64:], scale)


def test_depth_range_leaves_out_nothing_hit() -> None:
    low, high = depth_range([torch.zeros(4, 4), torch.linspace(1, 2, 16).view(4, 4)])
    assert 1 <= low < high <= 2
    assert depth_range([torch.zeros(2, 2)]) == (1.0, 2.0)


def test_panel_and_difference() -> None:
    a, b = torch.zeros(8, 8, 3), torch.ones(8, 4, 3) * 0.25
    sheet = panel({"source": a, "edited": b}, height=16)
    assert sheet.shape == (16 + 18, 16 + 4 + 8, 3)
    assert torch.equal(sheet[18:, :16], torch.zeros(16, 16, 3))
    torch.testing.assert_close(sheet[18:, 20:], torch.full((16, 8, 3), 64 / 255))
    assert (sheet[:18] < 0.5).any()  # the labels
    torch.testing.assert_close(difference(a, a + 0.25), torch.full((8, 8, 3), 0.5))


def test_a_film_has_its_frames(tmp_path: Path) -> None:
    frames = [torch.full((33, 34, 3), level) for level in (0.0, 0.5, 1.0)]
    save_video(tmp_path / "film.mp4", frames, fps=3)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    back = iio.imread(tmp_path / "film.mp4")
    assert back.shape == (3, 32, 34, 3)
    assert np.allclose(back.mean(axis=(1, 2, 3)) / 255, [0, 0.5, 1], atol=0.05)


def test_forward_facing_cameras_give_a_small_ellipse() -> None:
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(20, 3, generator=generator) * torch.tensor([0.5, 0.2, 0.02]) + torch.tensor(
        [0, 0, 4.0]
    )
    path = film_path(cameras_at(centres, torch.zeros(3), Y), "forward-facing", 12, distance=4.0)
    assert len(path) == 12 and (path.height, path.width) == (16, 16)
    assert (path.centres - centres.mean(0)).norm(dim=-1).max() < 1.0
    focus = path.centres + path.forward * (path.centres - torch.tensor([0, 0, 0.0])).norm(
        dim=-1, keepdim=True
    )
    assert focus.norm(dim=-1).max() < 0.4  # they look where the cameras look
    steps = (path.centres - path.centres.roll(1, 0)).norm(dim=-1)
    assert steps.max() < 3.5 * steps.min()  # smooth and closed


def test_cameras_all_around_give_an_orbit() -> None:
    angle = torch.arange(16) * (2 * math.pi / 16)
    centre = torch.tensor([3.0, -1.0, 2.0])
    places = torch.stack([2 * angle.cos(), 2 * angle.sin(), torch.full((16,), 1.0)], -1) + centre
    path = film_path(cameras_at(places, centre, Z), "all around", 9, distance=1.0)
    arm = path.centres - centre
    torch.testing.assert_close(arm.norm(dim=-1), torch.full((9,), math.sqrt(5)), atol=1e-3, rtol=0)
    torch.testing.assert_close(arm[:, 2], torch.ones(9), atol=1e-3, rtol=0)
    cosines = (path.forward * -arm).sum(-1) / arm.norm(dim=-1)
    assert cosines.min() > 0.999


@pytest.mark.parametrize("layout", get_args(CameraLayout))
def test_film_cameras_are_rotations(layout: CameraLayout) -> None:
    centres = torch.randn(10, 3, generator=torch.Generator().manual_seed(3)) + torch.tensor([0, 0, 5.0])
    path = film_path(cameras_at(centres, torch.zeros(3), Y), layout, 5, distance=5.0)
    rotation = path.c2w[:, :, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(5, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(5), atol=1e-5, rtol=0)


def test_a_film_that_ffmpeg_could_not_finish_is_said(tmp_path: Path) -> None:
    """Only ffmpeg's own process meets the limit: this one is not told."""
    frames = torch.rand(30, 64, 64, 3)
    with (
        limited_to(20_000),
        pytest.raises(UserError, match=r"film.mp4 cannot be written \(ffmpeg wrote only a part"),
    ):
        save_video(tmp_path / "film.mp4", frames, fps=10)
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def limited_to(size: int) -> Iterator[None]:
    """As on a full disk: no file may become larger than that many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
