"""Score Distillation Sampling: DreamFusion, Poole et al. 2022, arXiv 2209.14988."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ids3d.models.guidance.common import GuidanceConfig, guided, sample_timestep_and_noise
from ids3d.models.guidance.protocol import Generators, GuidanceOutput
from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.registry import register


@register("guidance", "sds")
class SDS:
    """∇ = w(t) (ε^ω(z_t^trg, y_trg, t) − ε), equation 3 of the paper. The source plays no part in it."""

    @dataclass
    class Config(GuidanceConfig):
        weighting: Literal["one", "sigma2"] = "sigma2"  # w(t) = σ_t², as in the paper

    def __init__(self, cfg: Config, prior: Prior) -> None:
        self.cfg, self.prior = cfg, prior

    def __call__(
        self,
        z_src: Tensor,
        z_trg: Tensor,
        source: Prompt,
        target: Prompt,
        generator: Generators,
        progress: float = 0.0,
    ) -> GuidanceOutput:
        """The gradient for the latents `z_trg` (b, c, h, w), each with a timestep and a noise of its own.

        Args:
            z_src, source: not used; there so that all methods are called alike.
            target: b prompts, or one for all.
            generator: where timesteps and noises are drawn from; one, or one for each latent.
            progress: how much of the run is done, in [0, 1].
        """
        cfg, prior, schedule = self.cfg, self.prior, self.prior.schedule
        t, eps = sample_timestep_and_noise(cfg, schedule, z_trg, generator, progress)
        with torch.no_grad():
            z_t = schedule.add_noise(z_trg, eps, t)
            eps_trg = prior.predict_noise(z_t, t, target, cfg.guidance_scale)
        return guided(cfg, schedule, eps_trg - eps, t)
