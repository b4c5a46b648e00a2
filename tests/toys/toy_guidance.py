"""A guidance that pulls towards what the prior thinks the image is, at one fixed timestep and without noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ids3d.models.guidance.protocol import Generators, GuidanceOutput
from ids3d.models.priors.protocol import Prior, Prompt


class PosteriorMean:
    @dataclass
    class Config:
        guidance_scale: float = 3.0
        timestep: float = 0.5  # as a share of the schedule

    def __init__(self, cfg: Config, prior: Prior) -> None:
        self.cfg, self.prior = cfg, prior

    @torch.no_grad()
    def __call__(
        self,
        z_src: Tensor,
        z_trg: Tensor,
        source: Prompt,
        target: Prompt,
        generator: Generators,
        progress: float = 0.0,
    ) -> GuidanceOutput:
        schedule = self.prior.schedule
        t = torch.full((len(z_trg),), int(self.cfg.timestep * schedule.num_timesteps), device=z_trg.device)
        z_t = schedule.alpha(t, z_trg) * z_trg
        eps = self.prior.predict_noise(z_t, t, target, self.cfg.guidance_scale)
        grad = z_trg - schedule.posterior_mean(z_t, eps, t)
        return GuidanceOutput(grad, {"pull": float(grad.square().mean().sqrt())})
