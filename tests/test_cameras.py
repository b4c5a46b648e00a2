"""Cameras and rays against the conventions written out by hand, and against each other."""

from __future__ import annotations

import math

import pytest
import torch

from ids3d.cameras import Cameras, Rays, Views, closest_to_axes, look_at, pinhole, project


def some_cameras(n: int = 3, height: int = 6, width: int = 9) -> Cameras:
    g = torch.Generator().manual_seed(n)
    eye = 3 * torch.nn.functional.normalize(torch.randn(n, 3, generator=g), dim=-1)
    c2w = look_at(eye, 0.1 * torch.randn(n, 3, generator=g), torch.tensor([0.0, 0.3, 1.0]))
    draws = torch.rand(4, n, generator=g)
    return Cameras(c2w, 8 + draws[0], 9 + draws[1], 4 + draws[2], 2.5 + draws[3], height, width)


def test_an_identity_camera_looks_along_minus_z_with_rows_going_down() -> None:
    cameras = pinhole(torch.eye(4)[None, :3], height=2, width=2, fov_y=90.0)
    directions = cameras.rays().directions[0]
    # A field of view of 90 degrees: the image plane at z = -1 spans [-1, 1], pixel centres are at +-1/2.
    expected = torch.tensor([[[-0.5, 0.5, -1.0], [0.5, 0.5, -1.0]], [[-0.5, -0.5, -1.0], [0.5, -0.5, -1.0]]])
    torch.testing.assert_close(directions, expected / math.sqrt(1.5))
    torch.testing.assert_close(cameras.forward, torch.tensor([[0.0, 0.0, -1.0]]))


def test_rays_agree_with_a_loop_over_pixels() -> None:
    cameras = some_cameras()
    rays = cameras.rays()
    assert rays.shape == (3, 6, 9)
    for n, row, col in ((0, 0, 0), (1, 5, 8), (2, 3, 4)):
        x = (col + 0.5 - float(cameras.cx[n])) / float(cameras.fx[n])
        y = (row + 0.5 - float(cameras.cy[n])) / float(cameras.fy[n])
        right, up, back, centre = cameras.c2w[n].unbind(-1)
        along = x * right - y * up - back
        torch.testing.assert_close(rays.directions[n, row, col], along / along.norm())
        torch.testing.assert_close(rays.origins[n, row, col], centre)


def test_rays_at_picks_from_all_rays() -> None:
    cameras = some_cameras()
    camera, row, col = torch.tensor([2, 0, 1]), torch.tensor([5, 0, 3]), torch.tensor([8, 1, 0])
    picked, rays = cameras.rays_at(camera, row, col), cameras.rays()
    torch.testing.assert_close(picked.directions, rays.directions[camera, row, col])
    torch.testing.assert_close(picked.origins, rays.origins[camera, row, col])
    assert len(picked) == 3


def test_projecting_a_point_on_a_ray_gives_its_pixel_and_z_depth() -> None:
    cameras = some_cameras()
    rays = cameras.rays()
    rows, cols = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(9) + 0.5, indexing="ij")
    for n in range(3):
        points = (rays[n].origins + 2.5 * rays[n].directions).reshape(-1, 3)
        xy, depth = project(cameras, points)
        torch.testing.assert_close(xy[n], torch.stack([cols, rows], -1).reshape(-1, 2), atol=1e-4, rtol=0)
        cosine = (rays[n].directions @ cameras.forward[n]).reshape(-1)
        torch.testing.assert_close(depth[n], 2.5 * cosine)
    behind = cameras.centres[:1] - cameras.forward[:1]
    assert project(cameras[0], behind)[1].item() == pytest.approx(-1.0)


def test_a_resized_camera_sees_the_same_points_at_scaled_pixels() -> None:
    cameras = some_cameras(height=6, width=9)
    small = cameras.resized(2, 18)
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)) * 0.2
    before, after = project(cameras, points)[0], project(small, points)[0]
    torch.testing.assert_close(after, before * torch.tensor([2.0, 1 / 3]))
    assert (small.height, small.width) == (2, 18)
    with pytest.raises(ValueError, match="0x5"):
        cameras.resized(0, 5)


def test_indexing_keeps_a_batch() -> None:
    cameras = some_cameras(4)
    for index, expected in ((-1, [3]), (1, [1]), (slice(1, 3), [1, 2]), (torch.tensor([2, 0]), [2, 0])):
        torch.testing.assert_close(cameras[index].c2w, cameras.c2w[expected])
        torch.testing.assert_close(cameras[index].cy, cameras.cy[expected])
    with pytest.raises(IndexError):
        cameras[4]


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="fx"):
        Cameras(torch.zeros(2, 3, 4), torch.ones(1), torch.ones(2), torch.ones(2), torch.ones(2), 4, 4)
    with pytest.raises(ValueError, match="one shape"):
        Rays(torch.zeros(3, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="images"):
        Views(torch.zeros(3, 5, 9, 3), some_cameras(), ("a", "b", "c"))


def test_rays_flatten_in_order() -> None:
    rays = some_cameras().rays()
    torch.testing.assert_close(rays.flatten()[6 * 9 + 2 * 9 + 5].directions, rays.directions[1, 2, 5])


@pytest.mark.parametrize(
    "index", [0, -1, slice(0, 3, 2), torch.tensor([2, 1]), torch.tensor([True, False, True])]
)
def test_views_keep_images_cameras_and_names_together(index: int | slice | torch.Tensor) -> None:
    cameras = some_cameras()
    images = torch.arange(3.0)[:, None, None, None].expand(3, 6, 9, 3)
    views = Views(images, cameras, ("0", "1", "2"))[index]
    kept = [int(name) for name in views.names]
    assert kept == views.images[:, 0, 0, 0].int().tolist()
    torch.testing.assert_close(views.cameras.c2w, cameras.c2w[kept])


def test_look_at_is_an_upright_rotation_that_sees_its_target_in_the_middle() -> None:
    eye, up = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]]), torch.tensor([0.0, 0.0, 2.0])
    target = torch.tensor([0.1, 0.2, 0.3])
    c2w = look_at(eye, target, up)
    torch.testing.assert_close(c2w[:, :, :3].mT @ c2w[:, :, :3], torch.eye(3).expand(2, 3, 3))
    torch.testing.assert_close(torch.linalg.det(c2w[:, :, :3]), torch.ones(2))
    xy, depth = project(pinhole(c2w, 4, 6, 50.0), target[None])
    torch.testing.assert_close(xy[:, 0], torch.tensor([[3.0, 2.0]]).expand(2, 2))
    torch.testing.assert_close(depth[:, 0], (eye - target).norm(dim=-1))
    assert (c2w[:, 2, 0].abs() < 1e-6).all()  # level: right has no part along up
    assert (c2w[:, 2, 1] > 0).all()


@pytest.mark.parametrize("eye", [[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
def test_look_at_refuses_what_has_no_answer(eye: list[float]) -> None:
    with pytest.raises(ValueError, match="parallel"):
        look_at(torch.tensor(eye), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))


def test_pinhole_has_its_field_of_view() -> None:
    cameras = pinhole(torch.eye(4)[None, :3], height=100, width=50, fov_y=40.0)
    top = torch.tensor([[0.0, math.tan(math.radians(20)), -1.0]])
    torch.testing.assert_close(project(cameras, top)[0][0, 0], torch.tensor([25.0, 0.0]), atol=1e-4, rtol=0)


def test_closest_point_to_axes_that_meet_miss_or_are_parallel() -> None:
    meet = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    draws = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions = torch.nn.functional.normalize(draws, dim=-1)
    torch.testing.assert_close(closest_to_axes(meet - 2 * directions, directions), meet)
    # Two lines that pass each other at a distance of 2, along x and along y.
    centres, axes = torch.tensor([[5.0, 0.0, 1.0], [0.0, -4.0, -1.0]]), torch.eye(3)[:2]
    torch.testing.assert_close(closest_to_axes(centres, axes), torch.zeros(3), atol=1e-6, rtol=0)
    side_by_side = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 4.0]])
    away = torch.tensor([[0.0, 0.0, -1.0]] * 2)
    torch.testing.assert_close(closest_to_axes(side_by_side, away), torch.tensor([1.0, 0.0, 2.0]))
