"""nerfacc's kernels against the PyTorch path; and that nothing touches them without CUDA."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from ids3d.rendering import (
    accumulate_along_rays,
    exclusive_prod,
    exclusive_sum,
    inclusive_prod,
    inclusive_sum,
    march,
    ray_aabb_intersect,
    visible,
    weights_from_density,
)
from tests.rendering.test_march import scene

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def test_the_cpu_path_never_touches_the_extension() -> None:
    """nerfacc compiles its extension when `nerfacc.cuda._backend` is imported, where nvcc is installed."""
    code = """
import sys, torch
from ids3d.rendering import *
box = torch.tensor([-1.0, -1, -1, 1, 1, 1])
grid = OccupancyGrid(box, (4, 4, 4))
o, d = torch.zeros(5, 3), torch.eye(3)[[0, 1, 2, 0, 1]]
s = grid.march(o, d, torch.zeros(5), torch.full((5,), 9.0), 0.1)
grid.march(o, d, torch.zeros(5), torch.full((5,), 9.0), 0.1, 0.1)
grid.update(0, lambda x: x[:, 0], torch.Generator())
x = torch.rand(len(s), requires_grad=True)
w, _, _ = weights_from_density(s.t_starts, s.t_ends, x, s.packed_info)
accumulate_along_rays(w, None, s.ray_indices, 5).sum().backward()
visible(s.t_starts, s.t_ends, x, s.packed_info)
for f in (inclusive_sum, exclusive_sum, inclusive_prod, exclusive_prod): f(x, s.packed_info).sum().backward()
ray_aabb_intersect(o, d, box[None])
assert "nerfacc.cuda._backend" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@cuda
@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("cone", [0.0, 0.02])
def test_march(levels: int, cone: float) -> None:
    tensors = [t.float() if t.is_floating_point() else t for t in scene(levels, n=200)]
    ours = march(*tensors, 0.07, cone)
    theirs = march(*(t.cuda() for t in tensors), 0.07, cone)
    same = ours.packed_info[:, 1] == theirs.packed_info[:, 1].cpu()
    assert len(ours) > 100 and same.float().mean() > 0.95  # midpoints within rounding of a face
    kept, kept_theirs = same[ours.ray_indices], same[theirs.ray_indices.cpu()]
    torch.testing.assert_close(ours.t_starts[kept], theirs.t_starts.cpu()[kept_theirs], rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.t_ends[kept], theirs.t_ends.cpu()[kept_theirs], rtol=0, atol=1e-4)


@cuda
def test_boxes() -> None:
    o, d, _, boxes, _, _ = (t.float() if t.is_floating_point() else t for t in scene(3, n=200))
    ours, theirs = ray_aabb_intersect(o, d, boxes), ray_aabb_intersect(o.cuda(), d.cuda(), boxes.cuda())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-5, atol=1e-5)


@cuda
@pytest.mark.parametrize("function", [inclusive_sum, exclusive_sum, inclusive_prod, exclusive_prod])
def test_scans(function) -> None:  # type: ignore[no-untyped-def]
    counts = torch.randint(0, 70, (300,), generator=torch.Generator().manual_seed(0))
    info = torch.stack([counts.cumsum(0) - counts, counts], dim=-1)
    x = torch.rand(int(counts.sum()), generator=torch.Generator().manual_seed(1)) + 0.5
    results = []
    for device in ("cpu", "cuda"):
        leaf = x.detach().to(device).requires_grad_()
        y = function(leaf, info.to(device))
        (y.clamp(max=10).square().sum()).backward()
        assert leaf.grad is not None
        results.append((y.detach().cpu(), leaf.grad.cpu()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@cuda
def test_compositing() -> None:
    tensors = [t.float() if t.is_floating_point() else t for t in scene(2, n=100)]
    samples = march(*tensors, 0.07)
    density = torch.rand(len(samples), generator=torch.Generator().manual_seed(0)) * 5
    results: list[tuple[Tensor, ...]] = []
    for device in ("cpu", "cuda"):
        leaf = density.detach().to(device).requires_grad_()
        info, rays = samples.packed_info.to(device), samples.ray_indices.to(device)
        spans = samples.t_starts.to(device), samples.t_ends.to(device)
        weights, _, _ = weights_from_density(*spans, leaf, info)
        pixels = accumulate_along_rays(weights, torch.stack([*spans], dim=-1), rays, 100)
        pixels.square().sum().backward()
        assert leaf.grad is not None
        mask = visible(*spans, leaf.detach(), info, 1e-2, 0.01)
        results.append((pixels.detach().cpu(), leaf.grad.cpu(), mask.cpu().float().mean()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
