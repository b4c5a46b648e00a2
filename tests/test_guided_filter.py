"""The guided filter against least squares, window by window, and what it is for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ids3d.guided_filter import guided_filter


def slowly(guide: Tensor, values: Tensor, radius: int, eps: float) -> Tensor:
    """The same of one image (c, h, w) and (k, h, w), in loops: a ridge regression in each window, then their mean."""
    c, h, w = guide.shape
    coefficients = torch.zeros(h, w, c + 1, len(values), dtype=guide.dtype)

    def window(i: int, j: int) -> tuple[slice, slice]:
        return (
            slice(max(i - radius, 0), min(i + radius + 1, h)),
            slice(max(j - radius, 0), min(j + radius + 1, w)),
        )

    for i in range(h):
        for j in range(w):
            rows, columns = window(i, j)
            x, y = (image[:, rows, columns].flatten(1).T for image in (guide, values))
            n = len(x)
            # The intercept is not penalised: a row of √(n ε) for each slope, and none for it.
            given = torch.cat([x, torch.ones(n, 1, dtype=x.dtype)], dim=1)
            penalty = torch.cat([(n * eps) ** 0.5 * torch.eye(c), torch.zeros(c, 1)], dim=1).to(x)
            zeros = torch.zeros(c, y.shape[1], dtype=y.dtype)
            coefficients[i, j] = torch.linalg.lstsq(
                torch.cat([given, penalty]), torch.cat([y, zeros])
            ).solution
    out = torch.zeros_like(values)
    for i in range(h):
        for j in range(w):
            mean = coefficients[window(i, j)].flatten(0, 1).mean(dim=0)
            out[:, i, j] = mean[:c].T @ guide[:, i, j] + mean[c]
    return out


@pytest.mark.parametrize(("channels", "radius"), [(3, 2), (1, 3)])
def test_it_is_least_squares_in_each_window(channels: int, radius: int) -> None:
    generator = torch.Generator().manual_seed(0)
    guide = torch.rand(2, channels, 8, 11, generator=generator, dtype=torch.float64)
    values = torch.rand(2, 2, 8, 11, generator=generator, dtype=torch.float64)
    found = guided_filter(guide, values, radius, eps=0.01)
    for one, of, expected in zip(guide, values, found, strict=True):
        assert torch.allclose(slowly(one, of, radius, 0.01), expected, atol=1e-10)


def test_what_is_affine_in_the_guide_gets_its_fine_edges() -> None:
    # A square of another colour, whose edges the coarse values blur over four of the guide's pixels.
    guide = torch.zeros(1, 3, 64, 64) + torch.tensor([0.2, 0.5, 0.3])[:, None, None]
    guide[:, :, 18:45, 22:49] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    true = torch.zeros(1, 3, 64, 64)
    true[:, :, 18:45, 22:49] = torch.tensor([-0.8, 0.1, 0.7])[:, None, None]
    coarse = F.interpolate(true, (16, 16), mode="bilinear", antialias=True)
    fine = guided_filter(guide, coarse, radius=2, eps=1e-5)
    assert float((fine - true).abs().max()) < 0.02
    assert float((F.interpolate(coarse, (64, 64), mode="bicubic") - true).abs().max()) > 0.3


def test_in_a_plain_guide_values_are_averaged() -> None:
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = guided_filter(torch.full((1, 3, 32, 32), 0.5), noise, radius=4)
    assert float(plain.std()) < 0.2 * float(noise.std())
    assert float(plain.mean() - noise.mean()) == pytest.approx(0, abs=0.05)
