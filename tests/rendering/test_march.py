from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ids3d.rendering import Samples, march, ray_aabb_intersect
from tests.rendering import reference

F64 = torch.float64


def nested_boxes(levels: int) -> Tensor:
    base = torch.tensor([-1.0, -0.6, -0.4, 1.0, 0.8, 0.5], dtype=F64)
    centre, half = (base[:3] + base[3:]) / 2, (base[3:] - base[:3]) / 2
    return torch.stack([torch.cat([centre - half * 2**i, centre + half * 2**i]) for i in range(levels)])


def rays(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A third from inside, a third from outside toward the box, a third in any direction; some parallel to an axis."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.randn(n, 3, generator=generator, dtype=F64) * 2
    origins[: n // 3] *= 0.1
    directions = torch.randn(n, 3, generator=generator, dtype=F64)
    toward = slice(n // 3, 2 * n // 3)
    directions[toward] = -origins[toward] + 0.3 * directions[toward]
    directions[::5, 1] = 0
    directions[::10, 0] = 0
    return origins, directions / directions.norm(dim=-1, keepdim=True)


def compare(samples: Samples, expected: list[reference.Marched], atol: float = 1e-9) -> None:
    assert samples.packed_info.shape == (len(expected), 2)
    assert samples.ray_indices.dtype == samples.packed_info.dtype == torch.int64
    assert samples.packed_info[:, 1].tolist() == [len(ray.t_starts) for ray in expected]
    assert samples.ray_indices.tolist() == [i for i, ray in enumerate(expected) for _ in ray.t_starts]
    starts = torch.tensor([t for ray in expected for t in ray.t_starts], dtype=F64)
    ends = torch.tensor([t for ray in expected for t in ray.t_ends], dtype=F64)
    torch.testing.assert_close(samples.t_starts.double(), starts, rtol=0, atol=atol)
    torch.testing.assert_close(samples.t_ends.double(), ends, rtol=0, atol=atol)


def scene(
    levels: int, n: int = 40, fill: float = 0.4, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + seed)
    binaries = torch.rand(levels, 5, 4, 3, generator=generator) < fill
    near = torch.rand(n, generator=generator, dtype=F64) * 1.5
    far = near + torch.rand(n, generator=generator, dtype=F64) * 6
    far[::3] = math.inf
    near[::4] = 0
    return *rays(n, seed), binaries, nested_boxes(levels), near, far


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("fill", [0.4, 1.0])
def test_equal_steps(levels: int, fill: float) -> None:
    o, d, binaries, boxes, near, far = scene(levels, fill=fill)
    for step in (0.07, 0.9):
        expected = [
            reference.march_equal_steps(*map(np.asarray, ray), binaries.numpy(), boxes.numpy(), t0, t1, step)
            for ray, t0, t1 in zip(zip(o, d, strict=True), near.tolist(), far.tolist(), strict=True)
        ]
        assert sum(len(ray.t_starts) for ray in expected) > 5
        compare(march(o, d, binaries, boxes, near, far, step), expected)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("cone", [1e-12, 0.02, 0.3])
def test_cone(levels: int, cone: float) -> None:
    o, d, binaries, boxes, near, far = scene(levels, n=24, seed=1)
    expected = [
        reference.march_cells(*map(np.asarray, ray), binaries.numpy(), boxes.numpy(), t0, t1, 0.07, cone)
        for ray, t0, t1 in zip(zip(o, d, strict=True), near.tolist(), far.tolist(), strict=True)
    ]
    assert sum(len(ray.t_starts) for ray in expected) > 5
    compare(march(o, d, binaries, boxes, near, far, 0.07, cone), expected, atol=1e-6)


def test_single_precision_differs_by_rounding_alone() -> None:
    o, d, binaries, boxes, near, far = scene(2)
    exact = march(o, d, binaries, boxes, near, far, 0.07)
    single = march(o.float(), d.float(), binaries, boxes.float(), near.float(), far.float(), 0.07)
    assert single.t_starts.dtype == torch.float32
    # A midpoint within rounding of a cell's face may fall on either side of it.
    assert abs(len(single) - len(exact)) <= 2
    if len(single) == len(exact):
        torch.testing.assert_close(single.t_starts.double(), exact.t_starts, rtol=0, atol=1e-5)


def test_neighbouring_samples_touch() -> None:
    o, d, binaries, boxes, near, far = scene(1, fill=1.0)
    samples = march(o.float(), d.float(), binaries, boxes.float(), near.float(), far.float(), 0.07)
    same_ray = samples.ray_indices[1:] == samples.ray_indices[:-1]
    assert torch.equal(samples.t_ends[:-1][same_ray], samples.t_starts[1:][same_ray])


def test_empty_results() -> None:
    o, d, binaries, boxes, near, far = scene(2)
    nothing = [
        march(o, d, torch.zeros_like(binaries), boxes, near, far, 0.07),
        march(o, d, binaries, boxes + 50, near, far, 0.07),
        march(o, d, binaries, boxes, near, near, 0.07),
        march(o, d, torch.zeros_like(binaries), boxes, near, far, 0.07, 0.1),
        march(o, d, binaries, boxes + 50, near, near, 0.07, 0.1),
    ]
    for samples in nothing:
        assert len(samples) == 0 and samples.ray_indices.dtype == torch.int64
        assert samples.packed_info.tolist() == [[0, 0]] * len(o)


@pytest.mark.parametrize("cone", [0.0, 0.1])
def test_no_rays(cone: float) -> None:
    o, d, binaries, boxes, near, far = scene(1)
    samples = march(o[:0], d[:0], binaries, boxes, near[:0], far[:0], 0.07, cone)
    assert len(samples) == 0 and samples.packed_info.shape == (0, 2)


def test_bad_steps() -> None:
    o, d, binaries, boxes, near, far = scene(1)
    for step, cone in ((0.0, 0.0), (-1.0, 0.0), (0.1, -0.1), (math.nan, 0.0)):
        with pytest.raises(ValueError, match="step size"):
            march(o, d, binaries, boxes, near, far, step, cone)


def test_boxes() -> None:
    o, d = rays(60, seed=2)
    boxes = torch.cat([nested_boxes(2), nested_boxes(1) + 1.5])
    t_mins, t_maxs, hits = ray_aabb_intersect(o, d, boxes, miss_value=-7.0)
    assert 20 < int(hits.sum()) < hits.numel() - 20
    for i in range(len(o)):
        for j, box in enumerate(boxes):
            found = reference.crossing(o[i].numpy(), d[i].numpy(), box.numpy())
            assert bool(hits[i, j]) == (found is not None)
            assert (float(t_mins[i, j]), float(t_maxs[i, j])) == pytest.approx(found or (-7.0, -7.0))


def test_boxes_are_clipped_to_the_planes() -> None:
    o, d = torch.tensor([[0.0, 0, 0]]), torch.tensor([[1.0, 0, 0]])
    box = torch.tensor([[-1.0, -1, -1, 2, 1, 1]])
    t_min, t_max, hit = ray_aabb_intersect(o, d, box, near_plane=0.25, far_plane=1.5)
    assert (float(t_min), float(t_max), bool(hit)) == (0.25, 1.5, True)


def test_a_ray_within_a_face_is_inside() -> None:
    o, d = torch.tensor([[-3.0, 1, 1]]), torch.tensor([[1.0, 0, -0.0]])
    t_min, t_max, hit = ray_aabb_intersect(o, d, torch.tensor([[-1.0, -1, -1, 1, 1, 1]]))
    assert (float(t_min), float(t_max), bool(hit)) == (2, 4, True)
