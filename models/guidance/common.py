"""What all methods share: their common settings, the draw of timestep and noise, and what they return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ids3d.models.guidance.protocol import Generators, GuidanceOutput
from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.schedule import DiffusionSchedule


def one_for_each(generators: Generators, batch: int) -> Sequence[torch.Generator]:
    """The generator of each of `batch` latents. Raises ValueError where there are not as many."""
    if isinstance(generators, torch.Generator):
        return [generators] * batch
    if len(generators) != batch:
        raise ValueError(f"{len(generators)} generators for {batch} latents: expected one, or one for each")
    return generators


@dataclass
class GuidanceConfig:
    """The settings that every method has. A method's own Config adds to them, or changes a default."""

    guidance_scale: float = 7.5  # ω of classifier-free guidance
    t_range: tuple[float, float] = (
        0.05,
        0.95,
    )  # timesteps are drawn from this part of the schedule, ends included
    t_range_end: tuple[float, float] | None = (
        None  # ... moving linearly to this one as progress goes from 0 to 1
    )
    weighting: Literal["one", "sigma2"] = "one"  # w(t), a factor of the gradient: 1, or σ_t² = 1 − ᾱ_t
    max_rms: float | None = None  # a latent's gradient with a greater root mean square is scaled down to this

    def __post_init__(self) -> None:
        for low, high in filter(None, (self.t_range, self.t_range_end)):
            if not 0 <= low <= high <= 1:
                raise ValueError(f"a range of timesteps [{low}, {high}]: expected 0 <= low <= high <= 1")
        if self.max_rms is not None and self.max_rms <= 0:
            raise ValueError(f"max_rms {self.max_rms}: expected a number above 0, or null for no limit")


def timestep_limits(cfg: GuidanceConfig, num_timesteps: int, progress: float = 0.0) -> tuple[int, int]:
    """The first and the last timestep that may be drawn when `progress` in [0, 1] of the run is done."""
    p = min(max(progress, 0.0), 1.0)
    end = cfg.t_range if cfg.t_range_end is None else cfg.t_range_end
    low, high = ((1 - p) * a + p * b for a, b in zip(cfg.t_range, end, strict=True))
    last = num_timesteps - 1
    return min(round(low * num_timesteps), last), min(round(high * num_timesteps), last)


def sample_timestep_and_noise(
    cfg: GuidanceConfig,
    schedule: DiffusionSchedule,
    like: Tensor,
    generator: Generators,
    progress: float = 0.0,
    noises: int = 1,
    first: int = 0,
) -> tuple[Tensor, ...]:
    """A timestep and `noises` noises for each latent of `like` (b, c, h, w).

    Drawn one latent after the other, in float32 on its generator's own device: a batch gets the numbers that its
    latents would get one by one, and a GPU those of a CPU. `first` is the least timestep allowed.

    Returns: t (b,) int64, uniform over the range of `cfg`, and each noise, shaped and typed as `like`.
    """
    low, high = timestep_limits(cfg, schedule.num_timesteps, progress)
    low, high = max(low, first), max(high, first)
    t, eps = [], []
    for g in one_for_each(generator, len(like)):
        t.append(torch.randint(low, high + 1, (1,), generator=g, device=g.device))
        eps.append(torch.randn((noises, *like.shape[1:]), generator=g, device=g.device))
    return torch.cat(t).to(like.device), *torch.stack(eps, dim=1).to(like).unbind(0)


@torch.no_grad()
def predict_pair(
    prior: Prior,
    z_t_src: Tensor,
    z_t_trg: Tensor,
    t: Tensor,
    source: Prompt,
    target: Prompt,
    guidance_scale: float,
) -> tuple[Tensor, Tensor]:
    """ε^ω(z_t^src, y_src, t) and ε^ω(z_t^trg, y_trg, t), (b, c, h, w) each, without a graph.

    In one call of the UNet, of 4b: on a CPU 0.75 of the time of two calls of 2b.
    """
    b = len(z_t_src)
    prompts = Prompt.cat([source.expand(b), target.expand(b)])
    both = prior.predict_noise(torch.cat([z_t_src, z_t_trg]), torch.cat([t, t]), prompts, guidance_scale)
    eps_src, eps_trg = both.chunk(2)
    return eps_src, eps_trg


def guided(
    cfg: GuidanceConfig,
    schedule: DiffusionSchedule,
    grad: Tensor,
    t: Tensor,
    figures: dict[str, float] | None = None,
) -> GuidanceOutput:
    """The gradient (b, c, h, w) weighted by w(t) and kept within `max_rms`, with its figures."""
    grad = grad.detach()
    if cfg.weighting == "sigma2":
        grad = grad * schedule.sigma(t, grad) ** 2
    rms = grad.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    if cfg.max_rms is not None:
        grad = grad * (cfg.max_rms / rms.clamp(min=cfg.max_rms))
    return GuidanceOutput(
        grad, {"t": t.float().mean().item(), "grad_rms": rms.mean().item(), **(figures or {})}
    )
