"""The distortion of a ray's weights against the double sum that defines it."""

from __future__ import annotations

import pytest
import torch

from ids3d.rendering import Samples, distortion, packed


def rays(counts: list[int], seed: int = 0) -> tuple[torch.Tensor, Samples]:
    """Random weights (double) and disjoint intervals of rays with so many samples."""
    g = torch.Generator().manual_seed(seed)
    starts, ends, indices = [], [], []
    for ray, count in enumerate(counts):
        cuts = torch.rand(2 * count, generator=g, dtype=torch.float64).sort().values * 3 + 1
        starts.append(cuts[0::2])
        ends.append(cuts[1::2])
        indices += [ray] * count
    samples = packed(
        torch.cat(starts), torch.cat(ends), torch.tensor(indices, dtype=torch.int64), len(counts)
    )
    return torch.rand(len(samples), generator=g, dtype=torch.float64), samples


def by_definition(weights: torch.Tensor, samples: Samples) -> torch.Tensor:
    totals = []
    for start, count in samples.packed_info.tolist():
        total = weights.new_zeros(())
        for i in range(start, start + count):
            for j in range(start, start + count):
                total = total + weights[i] * weights[j] * (samples.midpoints[i] - samples.midpoints[j]).abs()
            total = total + weights[i] ** 2 * (samples.t_ends[i] - samples.t_starts[i]) / 3
        totals.append(total)
    return torch.stack(totals)


@pytest.mark.parametrize("counts", [[1], [4, 0, 3], [0, 7], [2, 2, 5, 0]])
def test_it_is_the_double_sum_and_so_is_its_gradient(counts: list[int]) -> None:
    weights, samples = rays(counts)
    weights.requires_grad_()
    got, expected = distortion(weights, samples), by_definition(weights, samples)
    torch.testing.assert_close(got, expected)
    upstream = torch.arange(1.0, len(counts) + 1, dtype=torch.float64)
    (a,) = torch.autograd.grad(got @ upstream, weights)
    (b,) = torch.autograd.grad(expected @ upstream, weights)
    torch.testing.assert_close(a, b)


def test_no_samples_at_all() -> None:
    weights, samples = rays([0, 0])
    assert distortion(weights, samples).tolist() == [0, 0]


def test_spread_costs_and_a_surface_does_not() -> None:
    _, samples = rays([20])
    surface, haze = torch.zeros(20, dtype=torch.float64), torch.full((20,), 0.05, dtype=torch.float64)
    surface[7] = 1
    assert float(distortion(surface, samples)) < 0.1 * float(distortion(haze, samples))
