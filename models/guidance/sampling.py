"""How timesteps and noises are drawn: latent by latent, from explicit generators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ids3d.models.guidance.protocol import Generators


def one_for_each(generators: Generators, batch: int) -> Sequence[torch.Generator]:
    """Return the generator of each of `batch` latents. Raises ValueError where there are not as many."""
    if isinstance(generators, torch.Generator):
        return [generators] * batch
    if len(generators) != batch:
        raise ValueError(f"{len(generators)} generators for {batch} latents: expected one, or one for each")
    return generators


def sample_timestep_and_noise(
    low: int, high: int, like: Tensor, generator: Generators, noises: int = 1
) -> tuple[Tensor, ...]:
    """Draw a timestep and `noises` noises for each latent of `like` (b, c, h, w).

    One latent after the other, in float32 on its generator's own device: a batch gets the numbers that its latents
    would get one by one, and a GPU those of a CPU.

    Returns: t (b,) int64, uniform over low to high, both included, and each noise, shaped and typed as `like`.
    """
    t, eps = [], []
    for g in one_for_each(generator, len(like)):
        t.append(torch.randint(low, high + 1, (1,), generator=g, device=g.device))
        eps.append(torch.randn((noises, *like.shape[1:]), generator=g, device=g.device))
    return torch.cat(t).to(like.device), *torch.stack(eps, dim=1).to(like).unbind(0)
