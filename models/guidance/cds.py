"""Contrastive Denoising Score: Nam et al. 2024, arXiv 2311.18608."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ids3d.models.guidance.common import guided, sample_timestep_and_noise
from ids3d.models.guidance.cut import CutConfig, predict_pair_with_cut
from ids3d.models.guidance.protocol import Generators, GuidanceOutput
from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.registry import register


@register("guidance", "cds")
class CDS:
    """∇ = DDS's gradient + w_cut · ∇_{z_trg} ℓ_CUT (see `cut.py`). With w_cut = 0 it is DDS.

    The published code steps by 0.0488 of DDS's part and 0.1 · w_cut of the other (plain SGD, rate 0.1, only the first
    part multiplied by 2000/64²). A loop that steps by 0.0488 of their sum does the same with w_cut = 3 · 2.05.
    """

    @dataclass
    class Config(CutConfig):
        w_cut: float = 3.0

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
            generator: where timesteps, noises and patches are drawn from; one, or one for each latent.
            progress: how much of the run is done, in [0, 1].
        """
        cfg, prior, schedule = self.cfg, self.prior, self.prior.schedule
        t, eps = sample_timestep_and_noise(cfg, schedule, z_trg, generator, progress)
        z_t_src = schedule.add_noise(z_src, eps, t)
        eps_src, eps_trg, cut = predict_pair_with_cut(
            cfg, prior, z_t_src, z_trg, eps, t, source, target, generator
        )
        grad = eps_trg - eps_src
        return guided(cfg, schedule, grad if cut is None else grad + cfg.w_cut * cut, t)
