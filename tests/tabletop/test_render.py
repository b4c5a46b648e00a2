"""Images of the tabletop world: depth, ids, opacity, shadows, and one picture kept for good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import max_pool2d

from ids3d.cameras import project
from ids3d.tabletop import render as module
from ids3d.tabletop.dataset import render_seed
from ids3d.tabletop.render import (
    FIRST_OBJECT,
    FLOOR,
    NOTHING,
    WALL,
    direct_light,
    light_directions,
    render,
    trace,
)
from ids3d.tabletop.scene import (
    HEIGHT,
    HELD_OUT,
    ROOM,
    Light,
    Object,
    TabletopScene,
    around_cameras,
    sample_camera,
    sample_scene,
)
from ids3d.tabletop.shapes import distance_to, normal_on
from ids3d.tabletop.world import FORMER

STORED = Path(__file__).parent / "seed-1000010.png"


def test_the_stored_picture() -> None:
    """The same picture on every machine, to one grey level."""
    rgb, _ = render_seed(HELD_OUT + 10, 64)
    stored = np.asarray(Image.open(STORED)).astype(int)
    assert np.abs(rgb.astype(int) - stored).max() <= 1


@pytest.mark.parametrize("seed", [3, 10, HELD_OUT + 10])
def test_depth_is_of_the_surface_that_is_seen(seed: int) -> None:
    """Points unprojected from one view lie on the surface that every other view sees, to a pixel."""
    scene = sample_scene(seed)
    cameras = around_cameras(seed, 4, 48)
    pictures = [render(scene, cameras[i], supersampling=1) for i in range(4)]
    rays = cameras[0].rays()
    points = (rays.origins[0] + pictures[0].depth[..., None] * rays.directions[0]).reshape(-1, 3)
    ids, seen = pictures[0].ids.flatten(), 0
    for i in range(1, 4):
        eye = cameras.centres[i]
        distance = (points - eye).norm(dim=-1)
        direction = ((points - eye) / distance[:, None]).T.contiguous()
        t, met, _ = trace(scene, eye[:, None].expand_as(direction), direction)
        # Each point lies on a surface, so no ray to it goes farther, but for one that grazes it.
        assert (t < distance + 1e-3).float().mean() > 0.998

        xy, z = project(cameras[i], points)
        inside = (z[0] > 0) & (xy[0] > 1).all(-1) & (xy[0] < 47).all(-1)
        visible = inside & ((t - distance).abs() < 1e-3)
        seen += int(visible.sum())
        assert (met[visible] == ids[visible]).float().mean() > 0.99  # but for seams
        col, row = xy[0, visible].long().unbind(-1)
        near, far = (sign * max_pool2d(sign * pictures[i].depth[None], 3, 1, 1)[0] for sign in (-1, 1))
        between = (distance[visible] > near[row, col] - 1e-3) & (distance[visible] < far[row, col] + 1e-3)
        assert between.float().mean() > 0.99  # but for a tip that no pixel's centre shows
        for what in met[visible].unique():
            nearby = max_pool2d((pictures[i].ids == what).float()[None], 3, 1, 1)[0] > 0
            of_it = met[visible] == what
            assert nearby[row[of_it], col[of_it]].float().mean() > 0.99
    assert seen > 1500


def test_matte_surfaces_look_alike_from_everywhere() -> None:
    scene = sample_scene(HELD_OUT + 10)
    cameras = around_cameras(0, 2, 48)
    a = render(scene, cameras[0], supersampling=1)
    rays = cameras[0].rays()
    points = (rays.origins[0] + a.depth[..., None] * rays.directions[0]).reshape(-1, 3)
    offset = points - cameras.centres[1]
    direction = torch.nn.functional.normalize(offset, dim=-1).T.contiguous()
    origin = cameras.centres[1][:, None].expand_as(direction)
    t, ids, normal = trace(scene, origin, direction)
    visible = t > offset.norm(dim=-1) - 1e-3
    rgb = module.shade(scene, origin + t * direction, ids, normal).T
    gap = (rgb - a.rgb.reshape(-1, 3)).abs().amax(-1)[visible]
    assert visible.sum() > 500
    assert (gap < 0.01).float().mean() > 0.99  # but for edges and the seams of a pattern


def test_ids_coverage_and_opacity_agree() -> None:
    scene = sample_scene(HELD_OUT + 10)
    camera = sample_camera(HELD_OUT + 10, scene, 40)
    coarse, fine = render(scene, camera, supersampling=1), render(scene, camera, supersampling=3)
    assert torch.equal(coarse.ids, fine.ids)
    assert torch.equal(coarse.depth, fine.depth)
    for index in range(len(scene.objects)):
        centre = coarse.ids == FIRST_OBJECT + index
        assert centre.any()
        assert torch.equal(coarse.coverage[index], centre.float())
        assert torch.equal(fine.coverage[index] == 1, (fine.coverage[index] == 1) & centre)
        assert (fine.coverage[index][centre] > 0).all()
    assert torch.equal(coarse.floor, (coarse.ids == FLOOR).float())
    assert (coarse.opacity == 1).all()
    assert set(coarse.ids.unique().tolist()) <= {FLOOR, WALL, *range(FIRST_OBJECT, FIRST_OBJECT + 3)}

    alone = render(scene, camera, supersampling=3, room=False)
    assert torch.allclose(alone.opacity, fine.coverage.sum(0))
    assert torch.equal(alone.ids == NOTHING, (fine.ids == FLOOR) | (fine.ids == WALL))
    assert torch.equal(alone.depth.isinf(), alone.ids == NOTHING)
    assert (alone.rgb[alone.opacity == 0] == 0).all()
    whole = alone.opacity == 1
    assert torch.allclose(alone.rgb[whole], fine.rgb[whole])


@pytest.mark.parametrize("seed", range(4))
def test_no_hit_is_culled(seed: int) -> None:
    """Tracing finds what testing every ray against every object finds, nearest first."""
    scene = sample_scene(HELD_OUT + 40 + seed, 3)
    rays = around_cameras(seed, 1, 40).rays()
    o, d = (v.reshape(-1, 3).T.double() for v in (rays.origins, rays.directions))
    t, ids, normal = trace(scene, o, d, room=False)
    each = torch.stack([distance_to(thing, o, d) for thing in scene.objects])
    nearest, which = each.min(0)
    assert torch.equal(t, nearest)
    assert torch.equal(ids, torch.where(nearest.isfinite(), which + FIRST_OBJECT, NOTHING))
    for index, thing in enumerate(scene.objects):
        met = ids == FIRST_OBJECT + index
        assert met.any()
        assert torch.equal(normal[:, met], normal_on(thing, (o + t * d)[:, met]))
    assert (normal[:, ids == NOTHING] == 0).all()


def test_rays_are_the_cameras() -> None:
    camera = sample_camera(3, sample_scene(3), 24)
    o, d = module.rays_of(camera)
    rays = camera.rays().flatten()
    assert torch.allclose(d.T.float(), rays.directions, atol=1e-6)
    assert torch.equal(o.expand_as(d).T.float(), rays.origins)


def test_the_room_is_closed() -> None:
    """From inside, every ray ends on the box; checked with the box's own inequality, not its planes."""
    g = torch.Generator().manual_seed(0)
    o = (torch.rand(3, 500, generator=g) - 0.5) * torch.tensor([[5.0], [5.0], [2.8]]) + torch.tensor(
        [[0], [0], [1.5]]
    )
    d = torch.nn.functional.normalize(torch.randn(3, 500, generator=g), dim=0)
    t, ids, normal = trace(TabletopScene(()), o, d)
    points = o + t * d
    half = torch.tensor([[ROOM], [ROOM], [HEIGHT / 2]])
    centred = (points - torch.tensor([[0.0], [0.0], [HEIGHT / 2]])) / half
    assert torch.allclose(centred.abs().amax(0), torch.ones(500), atol=1e-5)
    assert torch.equal(ids == FLOOR, points[2] < 1e-4)
    assert torch.allclose((normal * centred).sum(0), -torch.ones(500), atol=1e-5)  # inwards
    assert (((normal * d).sum(0)) < 0).all()


def test_antialiasing_is_the_mean_of_finer_rays() -> None:
    scene = sample_scene(3)
    camera = sample_camera(3, scene, 16)
    fine = render(scene, camera.resized(48, 48), supersampling=1)
    mean = fine.rgb.reshape(16, 3, 16, 3, 3).mean(dim=(1, 3))
    assert torch.allclose(render(scene, camera, supersampling=3).rgb, mean, atol=1e-5)
    with pytest.raises(ValueError, match="one camera"):
        render(scene, around_cameras(0, 2, 8))


@pytest.mark.parametrize("seed", range(6))
def test_no_shadow_is_culled(seed: int) -> None:
    """Testing only points that may be shaded gives the light of testing all."""
    scene = sample_scene(HELD_OUT + 20 + seed, 3)
    camera = sample_camera(seed, scene, 40)
    o, d = (v.reshape(-1, 3).T.double() for v in (camera.rays().origins, camera.rays().directions))
    t, _, normal = trace(scene, o, d)
    points = o + t * d + 1e-3 * normal
    shadow = torch.zeros(8, points.shape[1], dtype=torch.bool)
    directions = light_directions(scene.light)
    for row, direction in zip(shadow, directions, strict=True):
        for thing in scene.objects:
            row |= distance_to(thing, points, direction[:, None]).isfinite()
    facing = (directions @ normal).clamp(min=0)
    expected = torch.where(shadow, 0.0, facing).mean(0)
    assert shadow.any()
    assert torch.allclose(direct_light(scene, points, normal), expected, atol=1e-6)


def test_light_by_hand() -> None:
    """A floor without shadows has its albedo times ambient and direct light; a point behind the cube has no direct."""
    cube, light = Object("cube", "red", 0.4, 0.0, 0.0), Light(0.0, 45.0, 1.0)
    scene = TabletopScene((cube,), "grey", "sand", light, FORMER)
    points = torch.tensor([[1.5, 0.0, 0.0], [-0.5, 0.0, 0.0]], dtype=torch.float64).T
    up = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64).expand(3, 2)
    sun, shade = module.shade(scene, points, torch.tensor([FLOOR, FLOOR]), up).T
    grey = torch.tensor([0.46, 0.46, 0.48], dtype=torch.float64)
    assert torch.allclose(shade, grey * FORMER.ambient, atol=1e-6)
    facing = float(light_directions(scene.light)[:, 2].mean())
    assert facing == pytest.approx(0.5**0.5, abs=0.01)
    assert torch.allclose(sun, grey * (FORMER.ambient + FORMER.direct * facing), atol=1e-6)
