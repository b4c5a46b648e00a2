"""Posterior Distillation Sampling: Koo et al. 2024, arXiv 2311.13831."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ids3d.models.guidance.common import GuidanceConfig, guided, predict_pair, sample_timestep_and_noise
from ids3d.models.guidance.protocol import Generators, GuidanceOutput
from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.registry import register
from ids3d.schedule import DiffusionSchedule


@register("guidance", "pds")
class PDS:
    """∇ = ζ_trg − ζ_src with ζ = (z_{t′} − μ(z_t, ε^ω)) / σ_t, the noise that takes z_t to z_{t′}.

    t′ is the step before t on a schedule of `steps` steps; both latents share ε, of z_t, and ε′, of z_{t′}.
    """

    @dataclass
    class Config(GuidanceConfig):
        guidance_scale: float = 100.0
        t_range: tuple[float, float] = (0.02, 0.98)
        steps: int = 500
        # μ and σ_t with the β_t of one step of the full schedule (published), or of the whole step from t to t′ (exact)
        posterior: Literal["published", "exact"] = "published"

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.steps < 1:
                raise ValueError(f"steps {self.steps}: expected 1 or more")

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
        stride = max(schedule.num_timesteps // cfg.steps, 1)
        t, eps, eps_prev = sample_timestep_and_noise(
            cfg, schedule, z_trg, generator, progress, noises=2, first=stride
        )
        t_prev = t - stride
        z_t_src, z_t_trg = schedule.add_noise(z_src, eps, t), schedule.add_noise(z_trg, eps, t)
        eps_src, eps_trg = predict_pair(prior, z_t_src, z_t_trg, t, source, target, cfg.guidance_scale)
        zeta = []
        for z, z_t, eps_hat in ((z_src, z_t_src, eps_src), (z_trg, z_t_trg, eps_trg)):
            mean, std = posterior(schedule, z_t, eps_hat, t, t_prev, cfg.posterior)
            zeta.append((schedule.add_noise(z, eps_prev, t_prev) - mean) / std)
        return guided(cfg, schedule, zeta[1] - zeta[0], t)


def posterior(
    schedule: DiffusionSchedule,
    z_t: Tensor,
    eps: Tensor,
    t: Tensor,
    t_prev: Tensor,
    kind: Literal["published", "exact"],
) -> tuple[Tensor, Tensor]:
    """The mean μ (b, c, h, w) and the standard deviation σ_t (b, 1, 1, 1) of z_{t′} given z_t and the predicted noise.

    DDPM, Ho et al. 2020, equations 6 and 7, with t′ in place of t−1. There β_t is 1 − ᾱ_t/ᾱ_{t′} ("exact"); with it the
    terms in z_trg − z_src cancel, whatever the schedule, and PDS is DDS times √ᾱ_{t′} β_t / (√ᾱ_t √(1−ᾱ_t) σ_t). The
    published code takes β_t = 1 − ᾱ_t/ᾱ_{t−1} although t′ is two steps off; that leaves a pull of z_trg towards z_src,
    the identity-preserving term of the paper, and is the default for that.
    """
    double = torch.empty(
        1, 1, 1, 1, dtype=torch.float64
    )  # on the CPU: β_t loses half its digits in single precision
    a_t, a_prev = schedule.alpha_bar(t.cpu(), double), schedule.alpha_bar(t_prev.cpu(), double)
    alpha = a_t / (a_prev if kind == "exact" else schedule.alpha_bar(t.cpu() - 1, double))
    beta = 1 - alpha
    of_z_0 = a_prev.sqrt() * beta / (1 - a_t)
    of_z_t = alpha.sqrt() * (1 - a_prev) / (1 - a_t)
    mean = of_z_0.to(z_t) * schedule.posterior_mean(z_t, eps, t) + of_z_t.to(z_t) * z_t
    return mean, ((1 - a_prev) / (1 - a_t) * beta).sqrt().to(z_t)
