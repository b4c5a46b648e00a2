"""What all samplers share, so that the file of each is its settings and its prediction of the noise alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ids3d.config.bounds import check_bounds
from ids3d.errors import UserError
from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.models.samplers.ddim import ddim_invert, ddim_step, ddim_timesteps
from ids3d.models.samplers.protocol import Sampler, Show


@dataclass
class SamplerConfig:
    """The settings that every sampler has. A sampler's own Config adds to them."""

    steps: int = 50  # steps of DDIM, as many there (inversion) as back
    guidance_scale: float = 7.5  # ω of classifier-free guidance, on the way back

    def __post_init__(self) -> None:
        check_bounds(self, steps="[1, 1e5]", guidance_scale="[0, 1e4]")


@dataclass(frozen=True)
class SamplingStep:
    """What the noise of one step is predicted from.

    Attributes:
        index: of the step, from 0.
        t: (b,) int64, the timestep.
        z_t_src, z_t: the noisy latents of the source and of the edit, (b, c, h, w).
        source, target: their prompts, b each.
    """

    index: int
    t: Tensor
    z_t_src: Tensor
    z_t: Tensor
    source: Prompt
    target: Prompt


class DDIMSampler(Sampler, ABC):
    """Noise the source, then sample the edit from there by DDIM, with a noise that each sampler predicts in its way."""

    def __init__(self, cfg: SamplerConfig, prior: Prior) -> None:
        self.cfg, self.prior = cfg, prior
        if cfg.steps > prior.schedule.num_timesteps:
            raise UserError(
                f"guidance.steps={cfg.steps}: the prior's schedule has {prior.schedule.num_timesteps}"
            )

    def timesteps(self) -> list[int]:
        """Return the timesteps of the steps, falling."""
        return ddim_timesteps(self.prior.schedule, self.cfg.steps)

    def noise_source(
        self, z_src: Tensor, source: Prompt, generators: Sequence[torch.Generator]
    ) -> list[Tensor]:
        """Return the source (b, c, h, w) at each of `timesteps`, and `z_src` itself at the end: by DDIM inversion."""
        return ddim_invert(self.prior, z_src, source, self.cfg.steps, guidance_scale=1.0)

    @abstractmethod
    def predict_noise(self, step: SamplingStep) -> Tensor:
        """Return the noise (b, c, h, w) that is taken from `step.z_t`, without a graph."""

    @torch.no_grad()
    def edit(
        self,
        z_src: Tensor,
        source: Prompt,
        target: Prompt,
        generators: Sequence[torch.Generator],
        show: Show | None = None,
    ) -> Tensor:
        b = len(z_src)
        source, target, timesteps = source.expand(b), target.expand(b), self.timesteps()
        noisy = self.noise_source(z_src, source, generators)
        z = noisy[0]
        for i, (now, to) in enumerate(pairwise([*timesteps, -1])):
            t = torch.full((b,), now, device=z.device)
            eps = self.predict_noise(SamplingStep(i, t, noisy[i], z, source, target))
            z, clean = ddim_step(self.prior.schedule, z, eps, now, to)
            if show is not None:
                show(clean, (i + 1) / len(timesteps))
        return z
