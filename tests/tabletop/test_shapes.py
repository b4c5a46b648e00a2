"""Each shape's closed-form hit against marching along rays, its normals against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ids3d.tabletop.scene import SHAPES, Object
from ids3d.tabletop.shapes import ball_about, distance_to, normal_on
from tests.tabletop.reference import STEPS, first_hit, implicit, normal

FAR = 4.0


def rays_at(thing: Object, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rays (count, 3) from above the floor, outside the object, at points in and around it."""
    random = np.random.default_rng(seed)
    angle, height = random.uniform(0, 2 * np.pi, count), random.uniform(0.01, 2.0, count)
    origins = np.stack([1.6 * np.cos(angle), 1.6 * np.sin(angle), height], -1)
    low, high = [-1.3, -1.3, 0.0], [1.3, 1.3, 2.3]
    targets = [thing.x, thing.y, 0] + thing.size * random.uniform(low, high, (count, 3))
    directions = targets - origins
    return origins, directions / np.linalg.norm(directions, axis=-1, keepdims=True)


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(
    size=st.floats(0.19, 0.46),
    place=st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6)),
    turn=st.floats(0, 90),
    seed=st.integers(0, 1000),
)
def test_hits_and_normals(
    shape: str, size: float, place: tuple[float, float], turn: float, seed: int
) -> None:
    thing = Object(shape, "red", size, *place, turn)
    origins, directions = rays_at(thing, 200, seed)
    o, d = (torch.from_numpy(v.T.copy()).float() for v in (origins, directions))
    t = distance_to(thing, o, d)
    normals = normal_on(thing, o + t.where(t.isfinite(), 0.0) * d)
    expected, chord = first_hit(thing, o.T.double().numpy(), d.T.double().numpy(), FAR)

    marched, found = np.isfinite(expected), t.isfinite().numpy()
    assert chord[marched & ~found].max(initial=0) < 2 * FAR / STEPS  # where rounding decides
    missed = found & ~marched  # what is thinner than a step
    assert missed.mean() < 0.05
    thin = origins[missed] + directions[missed] * t.numpy()[missed][:, None]
    assert abs(implicit(thing, thin)).max(initial=0) < 1e-4
    hit = marched & found
    assert hit.sum() > 50  # enough to say something
    np.testing.assert_allclose(t.numpy()[hit], expected[hit], atol=2e-4)

    points = (origins + directions * expected[:, None])[hit]
    around = [normal(thing, points + shift) for shift in (-1e-3 * directions[hit], 1e-3 * directions[hit])]
    flat = (around[0] * around[1]).sum(-1) > 0.99  # not across an edge
    assert flat.mean() > 0.9
    agreement = (normal(thing, points) * normals.T.numpy()[hit]).sum(-1)
    assert agreement[flat].min() > 0.999
    assert abs(implicit(thing, points)).max() < 1e-6


def test_shapes_of_one_size_cover_about_as_much_of_a_picture() -> None:
    """From above at 30 degrees, on average over turns; what each covers is counted over parallel rays."""
    down = torch.tensor([-math.cos(math.pi / 6), 0.0, -0.5])
    across = torch.tensor([0.0, 1.0, 0.0])
    up = torch.linalg.cross(across, down)
    steps = torch.linspace(-1.2, 1.2, 161)
    h, v = torch.meshgrid(steps, steps, indexing="xy")
    o = (torch.tensor([0.0, 0.0, 0.4]) - 4 * down)[:, None]
    o = o + across[:, None] * h.flatten() + up[:, None] * v.flatten()
    covered = {}
    for shape in SHAPES:
        turns = [distance_to(Object(shape, "red", 0.4, 0, 0, turn), o, down[:, None]) for turn in (5, 25, 45)]
        covered[shape] = sum(t.isfinite().float().mean().item() for t in turns) / 3
    assert max(covered.values()) < 1.25 * min(covered.values()), covered


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_that_leave_a_surface_are_free(shape: str) -> None:
    """What starts on a surface and goes outwards does not meet the same (convex) object again."""
    thing = Object(shape, "red", 0.3, 0.2, -0.1, 20.0)
    origins, directions = rays_at(thing, 500, 1)
    o, d = (torch.from_numpy(v.T.copy()).float() for v in (origins, directions))
    t = distance_to(thing, o, d)
    surface = (o + t * d)[:, t.isfinite()]
    normals = normal_on(thing, surface)
    noise = torch.randn(surface.shape, generator=torch.Generator().manual_seed(0))
    outwards = torch.nn.functional.normalize(normals + 0.9 * noise, dim=0)
    leaving = (outwards * normals).sum(0) > 0.05
    assert leaving.sum() > 50
    start = surface + 1e-3 * normals
    assert distance_to(thing, start[:, leaving], outwards[:, leaving]).isinf().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_broadcast(shape: str) -> None:
    """Many points towards many directions are what each pair alone is."""
    thing = Object(shape, "red", 0.3, 0.2, -0.1, 20.0)
    origins, directions = rays_at(thing, 12, 2)
    o, d = (torch.from_numpy(v.T.copy()) for v in (origins, directions))
    table = distance_to(thing, o[:, None, :], d[:, :, None])
    for i in range(12):
        assert torch.equal(table[i], distance_to(thing, o, d[:, i : i + 1]))
    assert table.isfinite().any()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_ball_holds_the_shape_and_no_more(shape: str) -> None:
    thing = Object(shape, "red", 0.3, 0.2, -0.1, 20.0)
    centre, radius = ball_about(thing)
    points = np.random.default_rng(0).uniform(-0.7, 0.7, (400_000, 3)) + centre
    reach = np.linalg.norm(points - centre, axis=-1)[implicit(thing, points) < 0]
    assert len(reach) > 1000
    assert 0.9 * radius < reach.max() < radius
