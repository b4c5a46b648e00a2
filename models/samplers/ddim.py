"""DDIM: Song et al. 2021, arXiv 2010.02502."""

from __future__ import annotations

import torch
from torch import Tensor

from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.schedule import DiffusionSchedule


def ddim_timesteps(schedule: DiffusionSchedule, steps: int) -> list[int]:
    """Return `steps` timesteps from the schedule's last down, evenly spaced ("trailing", Lin et al. 2024, table 2).

    Raises ValueError for more steps than the schedule has.
    """
    n = schedule.num_timesteps
    if steps > n:
        raise ValueError(f"{steps} steps on a schedule of {n}")
    return [round((i + 1) * n / steps) - 1 for i in reversed(range(steps))]


def ddim_step(
    schedule: DiffusionSchedule, z_t: Tensor, eps: Tensor, t: int, to: int
) -> tuple[Tensor, Tensor]:
    """Step from z_t, with its predicted noise, to z at timestep `to`, before or after t; -1 stands for no noise at all.

    Equation 12 of the paper with σ = 0. Returns z_to and the clean latents z_{0|t}.
    """
    clean = z_t if t < 0 else schedule.posterior_mean(z_t, eps, _times(t, z_t))
    return (clean if to < 0 else schedule.add_noise(clean, eps, _times(to, z_t))), clean


@torch.no_grad()
def ddim_invert(prior: Prior, z: Tensor, prompt: Prompt, steps: int, guidance_scale: float) -> list[Tensor]:
    """Return the noisy latents that DDIM takes to `z` (b, c, h, w): at each of `ddim_timesteps`, and last z itself.

    Section 4.3 of the paper: the steps of the sampler, backwards, with the noise that is predicted where a step begins
    in place of the one where it ends. Sampling from the first of them comes back to z but for that.
    """
    reached, before = [z], -1
    for t in reversed(ddim_timesteps(prior.schedule, steps)):
        eps = prior.predict_noise(reached[-1], _times(t, z), prompt, guidance_scale)
        reached.append(ddim_step(prior.schedule, reached[-1], eps, before, t)[0])
        before = t
    return reached[::-1]


def _times(t: int, like: Tensor) -> Tensor:
    return torch.full((len(like),), t, device=like.device)
