"""Lenses against OpenCV's formulas written out, against COLMAP's, and undistortion against distortion."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ids3d.lenses import Distortion, Fisheye, Lens, RadialTangential, jacobian

FULL = RadialTangential(-0.21, 0.07, 0.003, -0.002, -0.011, 0.05, -0.02, 0.004)
FISHEYE = Fisheye(0.04, -0.012, 0.003, -0.0006)


def opencv(lens: RadialTangential, x: float, y: float) -> tuple[float, float]:
    """cv::projectPoints, term by term as its page has it: x'' and y''."""
    r = math.hypot(x, y)
    radial = (1 + lens.k1 * r**2 + lens.k2 * r**4 + lens.k3 * r**6) / (
        1 + lens.k4 * r**2 + lens.k5 * r**4 + lens.k6 * r**6
    )
    return (
        x * radial + 2 * lens.p1 * x * y + lens.p2 * (r**2 + 2 * x**2),
        y * radial + lens.p1 * (r**2 + 2 * y**2) + 2 * lens.p2 * x * y,
    )


def opencv_fisheye(lens: Fisheye, x: float, y: float) -> tuple[float, float]:
    """cv::fisheye::projectPoints, term by term: x' and y'."""
    r = math.hypot(x, y)
    theta = math.atan(r)
    bent = theta * (1 + lens.k1 * theta**2 + lens.k2 * theta**4 + lens.k3 * theta**6 + lens.k4 * theta**8)
    return (bent / r * x, bent / r * y) if r else (0.0, 0.0)


PLACES = [(0.0, 0.0), (0.3, 0.0), (0.0, -0.7), (0.5, 0.4), (-0.6, 0.3), (-0.2, -0.8)]


@pytest.mark.parametrize("place", PLACES)
def test_the_formulas_of_opencv(place: tuple[float, float]) -> None:
    xy = torch.tensor(place, dtype=torch.float64)
    assert FULL.distort(xy).tolist() == pytest.approx(opencv(FULL, *place), abs=1e-14)
    assert FISHEYE.distort(xy).tolist() == pytest.approx(opencv_fisheye(FISHEYE, *place), abs=1e-14)


@pytest.mark.parametrize(
    ("model", "parameters", "distortion"),
    [
        ("SIMPLE_RADIAL", [-0.1], RadialTangential(-0.1)),
        ("RADIAL", [-0.1, 0.03], RadialTangential(-0.1, 0.03)),
        ("OPENCV", [-0.1, 0.03, 0.002, -0.003], RadialTangential(-0.1, 0.03, 0.002, -0.003)),
        ("FULL_OPENCV", [-0.21, 0.07, 0.003, -0.002, -0.011, 0.05, -0.02, 0.004], FULL),
        ("OPENCV_FISHEYE", [0.04, -0.012, 0.003, -0.0006], FISHEYE),
        ("RADIAL_FISHEYE", [0.04, -0.012], Fisheye(0.04, -0.012)),
    ],
)
def test_colmap_puts_points_on_the_same_pixels(
    model: str, parameters: list[float], distortion: Distortion
) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    focal = [91.0] if model.startswith(("SIMPLE", "RADIAL")) else [91.0, 88.0]
    camera = pycolmap.Camera(model=model, width=120, height=100, params=[*focal, 61, 49, *parameters])
    lens = Lens(120, 100, focal[0], focal[-1], 61, 49, distortion)
    xy = torch.tensor(PLACES, dtype=torch.float64)
    ahead = torch.cat([xy, torch.ones(len(xy), 1, dtype=torch.float64)], dim=-1)
    torch.testing.assert_close(lens.pixels(xy), torch.from_numpy(camera.img_from_cam(ahead.numpy())))
    torch.testing.assert_close(lens.plane(lens.pixels(xy)), xy, atol=1e-9, rtol=0)


@settings(deadline=None, derandomize=True, database=None, max_examples=60)
@given(
    st.tuples(*[st.floats(-0.15, 0.15)] * 2, *[st.floats(-0.01, 0.01)] * 2, *[st.floats(-0.02, 0.02)] * 4),
    st.tuples(*[st.floats(-0.05, 0.05)] * 2, *[st.floats(-0.005, 0.005)] * 2),
)
def test_undistortion_is_the_inverse(radial: tuple[float, ...], fisheye: tuple[float, ...]) -> None:
    side = torch.linspace(-0.7, 0.7, 9, dtype=torch.float64)
    xy = torch.stack(torch.meshgrid(side, side, indexing="ij"), dim=-1)
    for distortion in (RadialTangential(*radial), Fisheye(*fisheye)):
        if not bool((torch.linalg.det(jacobian(distortion, xy)) > 0.2).all()):
            continue  # it all but folds over within the image
        torch.testing.assert_close(distortion.undistort(distortion.distort(xy)), xy, atol=1e-8, rtol=0)


def test_what_no_point_is_taken_to_is_nan() -> None:
    # x (1 - x²) is at most 0.385; a fisheye shows what is 90 degrees off its axis and more.
    beyond = torch.tensor([[0.3, 0.0], [0.5, 0.0]], dtype=torch.float64)
    found = RadialTangential(-1.0).undistort(beyond)
    assert found[0].isfinite().all() and found[1].isnan().all()
    found = Fisheye().undistort(torch.tensor([[1.5, 0.0], [1.58, 0.0]], dtype=torch.float64))
    assert float(found[0, 0]) == pytest.approx(math.tan(1.5)) and found[1].isnan().all()


def test_the_middle_is_smooth() -> None:
    tiny = torch.tensor([[0.0, 0.0], [1e-12, 0.0], [1e-7, -1e-7]], dtype=torch.float64)
    torch.testing.assert_close(Fisheye(0.1).distort(tiny), tiny, atol=1e-20, rtol=1e-9)
    torch.testing.assert_close(Fisheye(0.1).undistort(tiny), tiny, atol=1e-20, rtol=1e-9)


def test_a_resized_lens_shows_the_same() -> None:
    lens = Lens(120, 100, 91, 88, 61, 49, FULL)
    xy = torch.tensor(PLACES, dtype=torch.float64)
    small = lens.resized(60, 25)
    torch.testing.assert_close(small.pixels(xy), lens.pixels(xy) * torch.tensor([0.5, 0.25]))
    assert small.tangents == pytest.approx(lens.tangents)
    assert lens.tangents == pytest.approx((61 / 91, 51 / 88))
    assert lens.grid().shape == (100, 120, 2) and lens.grid()[2, 5].tolist() == [5.5, 2.5]
