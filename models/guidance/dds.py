"""Delta Denoising Score: Hertz et al. 2023, arXiv 2304.07090."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ids3d.models.guidance.common import GuidanceConfig, guided, predict_pair, sample_timestep_and_noise
from ids3d.models.guidance.protocol import Generators, GuidanceOutput
from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.registry import register


@register("guidance", "dds")
class DDS:
    """∇ = ε^ω(z_t^trg, y_trg, t) − ε^ω(z_t^src, y_src, t), with the same t and noise for both."""

    @dataclass
    class Config(GuidanceConfig):
        pass

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
        """The gradient for the latents `z_trg`, beside their sources `z_src` (b, c, h, w).

        Args:
            source, target: b prompts each, or one for all.
            generator: where timesteps and noises are drawn from; one, or one for each latent.
            progress: how much of the run is done, in [0, 1].
        """
        cfg, prior, schedule = self.cfg, self.prior, self.prior.schedule
        t, eps = sample_timestep_and_noise(cfg, schedule, z_trg, generator, progress)
        z_t_src = schedule.add_noise(z_src, eps, t)
        z_t_trg = schedule.add_noise(z_trg, eps, t)
        eps_src, eps_trg = predict_pair(prior, z_t_src, z_t_trg, t, source, target, cfg.guidance_scale)
        return guided(cfg, schedule, eps_trg - eps_src, t)
