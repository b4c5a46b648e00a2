"""Which timesteps a step of the prior's training dwells on."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def middle_timesteps(count: int, middle: float, generator: torch.Generator) -> Tensor:
    """Timesteps (count,) in [0, 1000), denser in the middle, where shapes form, than where all or nothing is seen.

    "Mode sampling" of Esser et al. 2024 (arXiv 2403.03206, eq. 20). One quantile is drawn from each of as many equal
    parts as there are timesteps, which makes the loss less noisy.
    """
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t = 1 - u - middle * (torch.cos(math.pi / 2 * u).square() - 1 + u)
    return (t * 1000).long().clamp(0, 999)


def noisiest_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,) in [900, 1000), all alike, one from each of as many equal parts."""
    return (
        999 - (torch.rand(count, generator=generator) + torch.arange(count)).mul(100 / max(count, 1)).long()
    )
