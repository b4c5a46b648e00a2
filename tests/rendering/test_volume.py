from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ids3d.rendering import (
    accumulate_along_rays,
    pack_info,
    transmittance_from_density,
    visible,
    weights_from_density,
)
from tests.rendering import reference

Packed = tuple[Tensor, Tensor, Tensor, Tensor, int]


def samples(counts: list[int], seed: int = 0) -> Packed:
    """t_starts, t_ends, densities, ray_indices and the number of rays; with gaps between samples."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(counts)
    rays = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
    edges = torch.rand(2 * n, generator=generator, dtype=torch.float64).cumsum(0)
    densities = torch.rand(n, generator=generator, dtype=torch.float64) * 3
    return edges[::2], edges[1::2], densities, rays, len(counts)


@pytest.mark.parametrize("counts", [[4, 0, 7, 1], [0, 0], [], [64]])
def test_compositing_equals_a_loop(counts: list[int]) -> None:
    t_starts, t_ends, densities, rays, n = samples(counts)
    values = torch.rand(len(rays), 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    info = pack_info(rays, n)
    trans, alphas = transmittance_from_density(t_starts, t_ends, densities, info)
    weights, trans_again, alphas_again = weights_from_density(t_starts, t_ends, densities, info)
    assert torch.equal(trans, trans_again) and torch.equal(alphas, alphas_again)
    pixels = accumulate_along_rays(weights, values, rays, n)
    opacity = accumulate_along_rays(weights, None, rays, n)
    assert pixels.shape == (n, 3) and opacity.shape == (n, 1)
    for ray in range(n):
        own = rays == ray
        expected = reference.composite(
            densities[own].tolist(), (t_ends - t_starts)[own].tolist(), values[own].tolist()
        )
        for mine, theirs in zip((trans, alphas, weights), expected[:3], strict=True):
            torch.testing.assert_close(mine[own], torch.tensor(theirs, dtype=torch.float64))
        total = torch.tensor(expected[3] or [0.0] * 3, dtype=torch.float64)
        torch.testing.assert_close(pixels[ray], total)
        torch.testing.assert_close(opacity[ray, 0], weights[own].sum())


def test_gradients() -> None:
    t_starts, t_ends, densities, rays, n = samples([3, 0, 4, 1])
    info = pack_info(rays, n)
    densities = densities.requires_grad_()
    values = torch.rand(len(rays), 2, dtype=torch.float64).requires_grad_()

    def pixels(densities: Tensor, values: Tensor) -> Tensor:
        weights, _, _ = weights_from_density(t_starts, t_ends, densities, info)
        return accumulate_along_rays(weights, values, rays, n)

    assert torch.autograd.gradcheck(lambda d: weights_from_density(t_starts, t_ends, d, info), densities)
    assert torch.autograd.gradcheck(
        lambda d: transmittance_from_density(t_starts, t_ends, d, info), densities
    )
    assert torch.autograd.gradcheck(pixels, (densities, values))


def test_no_samples_have_gradients_too() -> None:
    t_starts, t_ends, densities, rays, n = samples([0, 0])
    densities = densities.requires_grad_()
    weights, _, _ = weights_from_density(t_starts, t_ends, densities, pack_info(rays, n))
    accumulate_along_rays(weights, None, rays, n).sum().backward()
    assert densities.grad is not None and densities.grad.shape == (0,)


def test_thin_samples_keep_their_digits() -> None:
    """1 - exp(-1e-6) in single precision has an error of 5 %; an empty region would lose its gradient."""
    one = torch.ones(1)
    _, alphas = transmittance_from_density(0 * one, one, one * 1e-6, pack_info(torch.tensor([0]), 1))
    torch.testing.assert_close(alphas, one * 1e-6, rtol=1e-5, atol=0)


def test_visible() -> None:
    t_starts, t_ends, densities, rays, n = samples([9, 0, 30, 1], seed=1)
    densities[5] = 1e-3
    info = pack_info(rays, n)
    trans, alphas = transmittance_from_density(t_starts, t_ends, densities, info)
    expected = [bool(t >= 1e-2 and a >= 0.1) for t, a in zip(trans, alphas, strict=True)]
    assert visible(t_starts, t_ends, densities, info, 1e-2, 0.1).tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert visible(t_starts, t_ends, densities, info, 0.0).all()
