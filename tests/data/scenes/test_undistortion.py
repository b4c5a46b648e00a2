"""Undistorted images: whole, as wide as can be, and each pixel where the formula says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ids3d.data.scenes.undistortion import WIDEST, undistortion_of
from ids3d.lenses import Distortion, Fisheye, Lens, RadialTangential

LENSES = [
    RadialTangential(-0.2, 0.03, 0.002, -0.001),
    RadialTangential(0.15, 0.02, -0.001, 0.003),
    Fisheye(0.02, -0.003),
]


def lens(distortion: Distortion | None, focal: float = 70.0) -> Lens:
    return Lens(96, 64, focal, 1.1 * focal, 50, 30, distortion)


@pytest.mark.parametrize("distortion", LENSES)
def test_no_pixel_is_from_outside_and_the_view_is_the_widest(distortion: Distortion) -> None:
    found = undistortion_of(lens(distortion))
    assert found is not None and found.pinhole.distortion is None
    assert (found.pinhole.cx, found.pinhole.cy) == (50, 30)
    assert found.pinhole.fy / found.pinhole.fx == pytest.approx(1.1)
    for zoom, whole in ((1.0, True), (0.99, False)):
        wider = Lens(96, 64, zoom * found.pinhole.fx, zoom * found.pinhole.fy, 50, 30)
        sides, along = torch.tensor([0.0, 1.0]), torch.linspace(0, 1, 50)
        edges = [torch.cartesian_prod(sides, along), torch.cartesian_prod(along, sides)]
        edge = torch.cat(edges).double() * torch.tensor([96.0, 64.0])
        seen = found.lens.pixels(wider.plane(edge))
        inside = (seen > -0.02) & (seen < torch.tensor([96.02, 64.02]))
        assert bool(inside.all()) is whole


def test_nothing_to_undo() -> None:
    assert undistortion_of(lens(None)) is None


def test_a_very_wide_fisheye_keeps_half_its_resolution_in_the_middle() -> None:
    found = undistortion_of(Lens(96, 96, 30, 30, 48, 48, Fisheye()))  # 96 pixels across are 183 degrees
    assert found is not None and found.zoom == pytest.approx(WIDEST)


@pytest.mark.parametrize("distortion", [RadialTangential(-1e6), RadialTangential(p1=1e9), Fisheye(-1e9)])
def test_a_lens_that_shows_nothing_is_refused(distortion: Distortion) -> None:
    with pytest.raises(ValueError, match="nothing"):
        undistortion_of(lens(distortion))


@pytest.mark.parametrize("distortion", LENSES)
@pytest.mark.parametrize("size", [(64, 96), (32, 48)])
def test_a_known_pattern_is_seen_as_by_a_pinhole_camera(
    distortion: Distortion, size: tuple[int, int]
) -> None:
    """A smooth pattern on the plane, taken through the lens, and taken without it."""
    found = undistortion_of(lens(distortion))
    assert found is not None

    def taken(by: Lens) -> np.ndarray:
        x, y = by.plane(by.grid()).unbind(-1)
        waves = [(7 * x + 3 * y).sin(), (9 * y - 2 * x).cos(), x, torch.ones_like(x)]
        return torch.stack(waves, dim=-1).numpy().astype(np.float32)

    made = found.apply(taken(found.lens), *size)
    expected = taken(found.pinhole.resized(size[1], size[0]))
    assert made.shape == (*size, 4)
    assert np.abs(made - expected)[2:-2, 2:-2].max() < 4e-3  # splines are less exact at the edges
    # x itself is linear: its error in pixels is what rays are off by.
    assert np.abs(made - expected)[2:-2, 2:-2, 2].max() * found.pinhole.fx < 0.01
    nearest = found.apply(taken(found.lens), *size, order=1)
    assert np.abs(nearest - expected)[..., 3].max() < 1e-6
