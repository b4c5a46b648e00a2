"""A field laid out in normalised device coordinates is rendered where it is in the world."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ids3d.cameras import Cameras, look_at, pinhole
from ids3d.data.scenes.framing import Ball as KnownBall
from ids3d.data.scenes.framing import Poses, frame
from ids3d.errors import UserError
from ids3d.models.geometry.grid import GridGeometry
from ids3d.models.geometry.protocol import Geometry
from ids3d.models.renderers.occupancy import OccupancyRenderer
from ids3d.scene import FreeSpace, SceneBounds
from ids3d.space import BOX, NDC, Space
from tests.data.scenes.llff_folder import arc_cameras
from tests.data.scenes.test_framing import as_poses, inside, seen_points

_MIDDLE = arc_cameras(9, 20.0)[4]
CENTRE, RADIUS = (_MIDDLE.centres + 3.2 * _MIDDLE.forward)[0] + torch.tensor([0.1, -0.05, 0.0]), 0.3


class Ball(nn.Module):
    """An opaque ball in the world, its colour depending on the place, in whatever space it is asked about."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def density_grid(self) -> None:
        return None

    def detail(self) -> None:
        return None

    def density(self, positions: Tensor) -> Tensor:
        return 1e4 * ((self.space.points(positions) - CENTRE).norm(dim=1) < RADIUS)

    def forward(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(positions), torch.sigmoid(4 * (self.space.points(positions) - CENTRE))


def framed() -> tuple[Poses, Cameras, SceneBounds]:
    cameras = arc_cameras(9, 20.0)
    poses = as_poses(cameras, near=2.0, far=30.0)
    framing = frame(poses, recentre=False, box_size=0, space="ndc")
    bounds = SceneBounds(framing.aabb, framing.near, framing.far, (0.0, 0.0, 0.0), space=framing.space)
    return poses, cameras, bounds


def test_the_box_in_ndc_holds_what_all_frusta_see() -> None:
    poses, cameras, _ = framed()
    framing = frame(poses, recentre=True, box_size=2.0, space="ndc")
    assert isinstance(framing.space, NDC)
    points = framing.to_scene.apply(seen_points(cameras, poses.bounds))
    coordinates = framing.space.coordinates(points)
    assert inside(framing, coordinates, 1e-4).all()
    low, high = coordinates.reshape(-1, 3).amin(0), coordinates.reshape(-1, 3).amax(0)
    assert (torch.cat([low - framing.aabb[:3], framing.aabb[3:] - high]) < 0.15).all()


def test_an_opaque_ball_is_where_it_is_in_the_world() -> None:
    """Colour and depth along rays against the ball's equation."""
    _, cameras, bounds = framed()
    renderer = OccupancyRenderer(
        OccupancyRenderer.Config(steps=4000, environment=0), Ball(bounds.space), bounds
    )
    rays = cameras[2].resized(30, 40).rays().flatten()
    render = renderer(rays)
    offset = rays.origins - CENTRE
    along = (offset * rays.directions).sum(1)
    root = along.square() - offset.square().sum(1) + RADIUS**2
    hit, surely = root > 0, root.abs() > 0.01
    assert torch.equal(render.opacity[surely] > 0.5, hit[surely]) and int(hit.sum()) > 20
    distance = -along - root.clamp(min=0).sqrt()
    seen = hit & surely
    assert torch.allclose(render.depth[seen], distance[seen], atol=0.01)
    points = rays.origins + distance[:, None] * rays.directions
    assert torch.allclose(render.rgb[seen], torch.sigmoid(4 * (points - CENTRE))[seen], atol=0.03)


def test_what_lies_before_a_views_nearest_depth_is_carved() -> None:
    """Each cell of the grid, by its centre in the world."""
    _, cameras, bounds = framed()
    nearest = torch.full((len(cameras),), 4.0)
    free = SceneBounds(
        bounds.aabb, bounds.near, bounds.far, None, free_space=FreeSpace(cameras, nearest), space=bounds.space
    )
    config = OccupancyRenderer.Config(occupancy_cells=4000, environment=0)
    geometry: Geometry = GridGeometry(GridGeometry.Config(voxels=1000), free)
    possible = OccupancyRenderer(config, geometry, free).occupancy.possible[0]
    axes = [
        free.aabb[i] + (torch.arange(n) + 0.5) / n * (free.aabb[3 + i] - free.aabb[i])
        for i, n in enumerate(possible.shape)
    ]
    centres = free.space.points(torch.cartesian_prod(*axes)).view(*possible.shape, 3)
    depth = ((centres[..., None, :] - cameras.centres) * cameras.forward).sum(-1)
    assert not possible.all() and possible.any()
    assert bool(possible[(depth > 4.0).all(-1)].all())  # behind it for all cameras: may be occupied
    assert bool((depth[~possible] < 4.0).any(-1).all())


def test_a_camera_beyond_what_another_shows_has_no_ndc() -> None:
    eye = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.5, 0.0]])
    cameras = pinhole(
        look_at(eye, torch.tensor([0.0, 0.0, -9.0]), torch.tensor([0.0, 1.0, 0.0])), 20, 20, 40.0
    )
    with pytest.raises(UserError, match=r"data\.space=ndc: there is no plane before all cameras"):
        frame(as_poses(cameras), recentre=True, box_size=2.0, space="ndc")
    assert frame(as_poses(cameras), recentre=True, box_size=2.0, space="auto").space == BOX


def test_views_that_look_one_way_are_laid_out_in_ndc_of_themselves() -> None:
    facing, around = (as_poses(arc_cameras(9, spread), near=2.0, far=30.0) for spread in (20.0, 180.0))
    chosen = frame(facing, recentre=True, box_size=2.0, space="auto")
    assert (
        isinstance(chosen.space, NDC)
        and chosen.space.key() == frame(facing, True, 2.0, space="ndc").space.key()
    )
    assert frame(around, recentre=True, box_size=2.0, space="auto").space == BOX
    ball = KnownBall(torch.zeros(3, dtype=torch.float64), 1.0)
    assert frame(facing, recentre=True, box_size=2.0, ball=ball, space="auto").space == BOX
