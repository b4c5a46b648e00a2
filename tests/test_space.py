"""Spaces: rays stay straight, distances agree with the world's, and coordinates can be undone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ids3d.cameras import Rays, look_at, pinhole, project
from ids3d.space import NDC, Box, Space


def ndc() -> NDC:
    c2w = look_at(
        torch.tensor([0.3, -0.2, 1.0]), torch.tensor([0.1, 0.4, -3.0]), torch.tensor([0.1, 1.0, 0.0])
    )
    return NDC(c2w[:, :3].T, c2w[:, 3], near=0.8, depth=0.7)


def rays(count: int = 50) -> Rays:
    """From near the space's camera, most of them looking ahead."""
    generator = torch.Generator().manual_seed(0)
    space = ndc()
    centres = space.origin + 0.2 * torch.randn(count, 3, generator=generator)
    local = torch.cat([torch.randn(count, 2, generator=generator) * 0.4, -torch.ones(count, 1)], dim=1)
    directions = local @ space.rotation
    return Rays(centres, directions / directions.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("space", [Box(), ndc()])
def test_points_of_a_ray_lie_where_the_space_says(space: Space) -> None:
    """A distance in the space, taken to the world's, gives the same point as going along the straight line there."""
    seen = rays()
    cast = space.cast(seen, near=0.5, far=40.0)
    assert torch.allclose(cast.directions.norm(dim=1), torch.ones(len(seen)), atol=1e-6)
    for share in (0.0, 0.3, 0.9, 1.0):
        t = cast.near + share * (cast.far - cast.near)
        along = cast.origins + t[:, None] * cast.directions
        world = cast.distance(t, torch.arange(len(seen)))
        points = seen.origins + world[:, None] * seen.directions
        assert torch.allclose(space.coordinates(points), along, atol=2e-5)
        assert torch.allclose(space.points(along), points, rtol=1e-3, atol=1e-4)
    assert torch.allclose(world, torch.full_like(world, 40.0), rtol=1e-3)


def test_nothing_nearer_than_near_or_the_near_plane_is_seen() -> None:
    space, seen = ndc(), rays()
    cast = space.cast(seen, near=1.5, far=40.0)
    distance = cast.distance(cast.near, torch.arange(len(seen)))
    plane = ((seen.origins - space.origin) @ space.rotation.T)[:, 2] + space.near
    ahead = -(seen.directions @ space.rotation.T)[:, 2]
    assert torch.allclose(distance, torch.maximum(plane / ahead, torch.tensor(1.5)), atol=1e-4)


def test_published_coordinates() -> None:
    """NeRF's appendix C: o' = (-f/(w/2) x/z, -f/(h/2) y/z, 1 + 2n/z), for the same points, up to axes' lengths."""
    space = ndc()
    camera = pinhole(torch.cat([space.rotation.T, space.origin[:, None]], dim=1)[None], 60, 80, 50.0)
    points = rays().origins + 3 * rays().directions
    local = (points - space.origin) @ space.rotation.T
    published = torch.stack(
        [
            -float(camera.fx) / 40 * local[:, 0] / local[:, 2],
            -float(camera.fy) / 30 * local[:, 1] / local[:, 2],
            1 + 2 * space.near / local[:, 2],
        ],
        dim=1,
    )
    x, y, z = space.coordinates(points).unbind(1)
    mine = torch.stack(
        [x * float(camera.fx) / 40, y * float(camera.fy) / 30, -1 - 2 * z / space.depth], dim=1
    )
    assert torch.allclose(mine, published, atol=1e-5)
    xy, _ = project(camera, points)
    assert torch.allclose(xy[0, :, 0], 40 + float(camera.fx) * x, atol=1e-3)


def test_rays_that_look_back_or_sideways_see_nothing() -> None:
    space = ndc()
    directions = space.rotation[[0, 2, 2]] * torch.tensor([[1.0], [1.0], [-1.0]])  # right, back, ahead
    cast = space.cast(Rays(space.origin.expand(3, 3), directions), near=0.1, far=100.0)
    seen: Tensor = cast.far > cast.near
    assert seen.tolist() == [False, False, True]
    assert all(bool(x.isfinite().all()) for x in (cast.origins, cast.directions, cast.near, cast.far))


def test_a_box_is_the_world() -> None:
    seen = rays(4)
    cast = Box().cast(seen, 0.5, 2.0)
    assert torch.equal(cast.origins, seen.origins) and torch.equal(cast.directions, seen.directions)
    t = torch.tensor([0.1, 3.0, 0.7, 2.0])
    assert torch.equal(cast.distance(t, torch.arange(4)), t)
