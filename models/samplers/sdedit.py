"""SDEdit: Meng et al. 2022, arXiv 2108.01073."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.models.samplers.ddim import SamplerConfig, ddim_step, ddim_timesteps
from ids3d.models.samplers.protocol import Show
from ids3d.registry import register


@register("sampler", "sdedit")
class SDEdit:
    """The source, noised to a share of the schedule, and denoised from there with the target prompt."""

    @dataclass
    class Config(SamplerConfig):
        strength: float = 0.7  # where on the schedule it is noised to: 0 changes nothing, 1 keeps nothing

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.strength <= 1:
                raise ValueError(f"strength {self.strength}: expected a share from 0 to 1")

    def __init__(self, cfg: Config, prior: Prior) -> None:
        self.cfg, self.prior = cfg, prior

    @torch.no_grad()
    def edit(
        self,
        z_src: Tensor,
        source: Prompt,
        target: Prompt,
        generators: Sequence[torch.Generator],
        show: Show | None = None,
    ) -> Tensor:
        """The edited latents (b, c, h, w); see `protocol.Sampler.edit`. The source prompt plays no part in it."""
        cfg, prior = self.cfg, self.prior
        times = ddim_timesteps(prior.schedule, cfg.steps)
        times = times[len(times) - round(cfg.strength * len(times)) :]
        if not times:
            return z_src
        noises = [torch.randn(z_src.shape[1:], generator=g, device=g.device) for g in generators]
        t = torch.full((len(z_src),), times[0], device=z_src.device)
        z = prior.schedule.add_noise(z_src, torch.stack([n.to(z_src) for n in noises]), t)
        for i, now in enumerate(times):
            eps = prior.predict_noise(z, t.new_tensor([now]), target, cfg.guidance_scale)
            z, clean = ddim_step(prior.schedule, z, eps, now, times[i + 1] if i + 1 < len(times) else -1)
            if show is not None:
                show(clean, (i + 1) / len(times))
        return z
