"""Axes, unit and box of a scene: what the images see is inside, and nothing depends on the files' axes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ids3d.cameras import Cameras, look_at, pinhole
from ids3d.data.scenes.framing import Framing, Poses, frame, frusta, layout_of
from tests.data.scenes.llff_folder import arc_cameras


def as_poses(cameras: Cameras, near: float | Tensor = 2.0, far: float | Tensor = 4.5) -> Poses:
    n = len(cameras)
    bounds = torch.stack([torch.as_tensor(b, dtype=torch.float64).expand(n) for b in (near, far)], dim=-1)
    tangents = torch.stack([cameras.width / 2 / cameras.fx, cameras.height / 2 / cameras.fy], dim=-1)
    return Poses(cameras.c2w.double(), tangents.double(), bounds)


def seen_points(cameras: Cameras, bounds: Tensor) -> Tensor:
    """Points along the rays of every pixel, at five depths along the axis between each view's bounds."""
    rays = cameras.resized(12, 16).rays()
    cosine = (rays.directions * cameras.forward[:, None, None]).sum(-1, keepdim=True)
    points = []
    for share in torch.linspace(0, 1, 5):
        depth = (bounds[:, 0] + share * (bounds[:, 1] - bounds[:, 0])).float()
        points.append(rays.origins + rays.directions / cosine * depth[:, None, None, None])
    return torch.stack(points)


def inside(framing: Framing, points: Tensor, slack: float = 1e-5) -> Tensor:
    low, high = framing.aabb[:3] - slack, framing.aabb[3:] + slack
    return ((points >= low) & (points <= high)).all(-1)


@pytest.mark.parametrize("spread", [10.0, 40.0, 180.0])
@pytest.mark.parametrize("recentre", [True, False])
def test_the_box_holds_what_all_frusta_see(spread: float, recentre: bool) -> None:
    cameras = arc_cameras(12, spread)
    poses = as_poses(cameras, near=torch.linspace(1.8, 2.2, 12))
    framing = frame(poses, recentre, box_size=2.0)
    points = framing.to_scene.apply(seen_points(cameras, poses.bounds))
    assert inside(framing, points, 1e-4).all()
    # And tightly: on every side it ends within a pixel or two of what the outermost rays see.
    low, high = points.reshape(-1, 3).amin(0), points.reshape(-1, 3).amax(0)
    assert (torch.cat([low - framing.aabb[:3], framing.aabb[3:] - high]) < 0.15).all()


def test_near_and_far_hold_every_ray_in_the_box() -> None:
    cameras = arc_cameras(12, 40.0)
    poses = as_poses(cameras)
    framing = frame(poses, recentre=True, box_size=2.0)
    distances = (
        framing.to_scene.apply(seen_points(cameras, poses.bounds))
        - framing.to_scene.apply(cameras.centres)[None, :, None, None]
    )
    assert float(distances.norm(dim=-1).min()) >= framing.near
    low, high = framing.aabb[:3], framing.aabb[3:]
    corners = torch.cartesian_prod(*torch.stack([low, high], dim=1))
    farthest = torch.cdist(framing.to_scene.apply(cameras.centres), corners).max()
    assert framing.far == pytest.approx(float(farthest), rel=1e-5)


def test_a_frustum_is_spanned_by_the_picture_corners() -> None:
    poses = as_poses(pinhole(torch.eye(4)[None, :3], height=100, width=200, fov_y=90.0))
    corners = frusta(poses, torch.tensor([[1.0, 3.0]], dtype=torch.float64))[0]
    expected = [[2 * d * x, d * y, -d] for d in (1.0, 3.0) for x in (-1, 1) for y in (-1, 1)]
    found = {tuple(round(v, 5) for v in corner) for corner in corners.tolist()}
    assert found == {tuple(corner) for corner in expected}


def test_forward_facing_the_average_camera_is_the_origin_and_looks_along_minus_z_but_for_its_pitch() -> None:
    cameras = arc_cameras(12, 40.0)
    framing = frame(as_poses(cameras), recentre=True, box_size=2.0)
    placed = framing.place(cameras.c2w.double())
    assert framing.layout == "forward-facing"
    torch.testing.assert_close(placed[:, :, 3].mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    x, y, z = placed[:, :, 2].mean(0).tolist()
    assert x == pytest.approx(0, abs=1e-5)
    assert z > 0.8
    assert y == pytest.approx(math.sin(math.radians(20)), abs=0.05)  # they look down by some 20 degrees
    up = framing.to_scene.rotation @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    assert float(up[1]) > 0.9999


def test_level_cameras_side_by_side_have_their_average_pose_become_identity() -> None:
    turn = look_at(torch.tensor([1.0, 2.0, 0.5]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))[:, :3]
    offsets = torch.tensor([[x, y, 0.0] for x in (-0.5, 0.0, 0.5) for y in (-0.2, 0.2)])
    c2w = torch.cat([turn.expand(6, 3, 3), (offsets @ turn.T)[:, :, None]], dim=-1)
    framing = frame(as_poses(pinhole(c2w, 240, 320, 40.0)), recentre=True, box_size=0.0)
    torch.testing.assert_close(framing.to_scene.rotation.float(), turn.T)


def test_all_around_the_object_is_the_origin_and_up_is_y() -> None:
    cameras = arc_cameras(12, 180.0)
    framing = frame(as_poses(cameras), recentre=True, box_size=2.0)
    assert framing.layout == "all around"
    target = framing.to_scene.apply(torch.tensor([1.0, 2.0, 3.0]))
    assert float(target.norm()) < 0.05 * 3 * framing.to_scene.scale
    up = framing.to_scene.rotation @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(up.float(), torch.tensor([0.0, 1.0, 0.0]), atol=1e-4, rtol=0)


def test_up_is_found_from_half_a_circle_of_high_cameras() -> None:
    # The mean of the cameras' own up axes leans by some 20 degrees here; their level right axes say where up is.
    cameras = arc_cameras(15, 100.0)
    framing = frame(as_poses(cameras), recentre=True, box_size=2.0)
    assert framing.layout == "all around"
    up = framing.to_scene.rotation @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    assert float(up[1]) > 0.9999


def test_a_far_room_behind_some_views_does_not_grow_the_box() -> None:
    cameras = arc_cameras(20, 180.0)
    far = torch.full((20,), 4.0)
    plain = frame(as_poses(cameras, far=far), recentre=True, box_size=0.0)
    far[[2, 7, 11]] = 40.0
    room = frame(as_poses(cameras, far=far), recentre=True, box_size=0.0)
    torch.testing.assert_close(room.aabb, plain.aabb, atol=0.5, rtol=0)
    # A forward-facing scene keeps its background: there a wall far away is in the image for all views.
    cameras = arc_cameras(20, 20.0)
    assert float(frame(as_poses(cameras, far=far), recentre=True, box_size=0.0).aabb[2]) < -35


def test_the_core_is_what_cameras_around_a_thing_look_at() -> None:
    cameras = arc_cameras(20, 180.0)
    poses = as_poses(cameras)
    framing = frame(poses, recentre=True, box_size=2.0)
    assert framing.core is not None
    low, high = framing.core[:3], framing.core[3:]
    assert (low >= framing.aabb[:3]).all() and (high <= framing.aabb[3:]).all()
    # The cameras stand in one distance from what they look at, so the cube is as wide as an image is there.
    target = framing.to_scene.apply(torch.tensor([1.0, 2.0, 3.0])).float()
    distance = (framing.place(poses.c2w)[:, :, 3] - target).norm(dim=-1).median()
    reach = float(distance * poses.tangents.max())
    torch.testing.assert_close((low + high) / 2, target, atol=0.1 * reach, rtol=0)
    torch.testing.assert_close(high - low, torch.full((3,), 2 * reach), atol=0.1 * reach, rtol=0)
    assert frame(as_poses(arc_cameras(20, 20.0)), recentre=True, box_size=2.0).core is None


def test_cameras_that_look_outwards() -> None:
    angle = torch.arange(8) * math.pi / 4
    eye = torch.stack([angle.cos(), torch.zeros(8), angle.sin()], dim=-1) + torch.tensor([5.0, 0.0, 0.0])
    c2w = look_at(eye, 10 * (eye - torch.tensor([5.0, 0, 0])), torch.tensor([0.0, 1.0, 0.0]))
    cameras = pinhole(c2w, 240, 320, fov_y=40.0)
    poses = as_poses(cameras, near=0.5, far=6.0)
    assert layout_of(poses) == "looking outwards"
    framing = frame(poses, recentre=True, box_size=2.0)
    points = framing.to_scene.apply(seen_points(cameras, poses.bounds))
    assert inside(framing, points).all()


@pytest.mark.parametrize("spread", [30.0, 180.0])
def test_the_files_axes_and_units_do_not_matter(spread: float) -> None:
    cameras = arc_cameras(12, spread)
    plain = frame(as_poses(cameras), recentre=True, box_size=2.0)
    turn = look_at(torch.tensor([1.0, 2.0, 0.5]), torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))[
        :, :3
    ].double()
    c2w = cameras.c2w.double()
    moved = torch.cat([turn @ c2w[:, :, :3], 7 * (turn @ c2w[:, :, 3:]) + 4], dim=-1)
    poses = as_poses(cameras)
    again = frame(Poses(moved, poses.tangents, 7 * poses.bounds), recentre=True, box_size=2.0)
    torch.testing.assert_close(again.place(moved), plain.place(c2w), atol=1e-5, rtol=0)
    torch.testing.assert_close(again.aabb, plain.aabb, atol=1e-5, rtol=0)
    assert again.near == pytest.approx(plain.near)


@pytest.mark.parametrize("n", [2, 3])
def test_few_cameras_and_cameras_side_by_side(n: int) -> None:
    c2w = torch.eye(4)[None, :3].repeat(n, 1, 1)
    c2w[:, 0, 3] = torch.arange(n) * 0.5
    framing = frame(as_poses(pinhole(c2w, 240, 320, 40.0)), recentre=True, box_size=2.0)
    assert framing.aabb.isfinite().all()
    torch.testing.assert_close(framing.to_scene.rotation, torch.eye(3, dtype=torch.float64))


def test_a_camera_that_looks_straight_down_or_is_rolled_over() -> None:
    down = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 3.0], [0.0, -1.0, 0.0, 0.0]])
    rolled = down @ torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))
    framing = frame(
        as_poses(pinhole(torch.stack([down, rolled]), 240, 320, 40.0)), recentre=True, box_size=2.0
    )
    rotation = framing.to_scene.rotation
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    assert float(torch.linalg.det(rotation)) == pytest.approx(1)
