"""SDEdit: Meng et al. 2022, arXiv 2108.01073."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ids3d.config.bounds import SHARE, check_bounds
from ids3d.models.priors.protocol import Prompt
from ids3d.models.samplers.ddim_sampler import DDIMSampler, SamplerConfig, SamplingStep
from ids3d.registry import register


@register("sampler", "sdedit")
class SDEdit(DDIMSampler):
    """Noise the source to a share of the schedule, and denoise it from there with the target prompt."""

    @dataclass
    class Config(SamplerConfig):
        strength: float = 0.7  # where on the schedule it is noised to: 0 changes nothing, 1 keeps nothing

        def __post_init__(self) -> None:
            super().__post_init__()
            check_bounds(self, strength=SHARE)

    cfg: Config

    def timesteps(self) -> list[int]:
        """Return the last `strength` of DDIM's timesteps."""
        timesteps = super().timesteps()
        return timesteps[len(timesteps) - round(self.cfg.strength * len(timesteps)) :]

    def noise_source(
        self, z_src: Tensor, source: Prompt, generators: Sequence[torch.Generator]
    ) -> list[Tensor]:
        """Return the source with one noise, drawn for each latent, at each timestep, and `z_src` itself at the end."""
        timesteps = self.timesteps()
        if not timesteps:
            return [z_src]
        noises = [torch.randn(z_src.shape[1:], generator=g, device=g.device) for g in generators]
        eps = torch.stack(noises).to(z_src)
        times = [torch.full((len(z_src),), t, device=z_src.device) for t in timesteps]
        return [*(self.prior.schedule.add_noise(z_src, eps, t) for t in times), z_src]

    def predict_noise(self, step: SamplingStep) -> Tensor:
        return self.prior.predict_noise(step.z_t, step.t, step.target, self.cfg.guidance_scale)
