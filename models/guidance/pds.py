"""Posterior Distillation Sampling: Koo et al. 2024, arXiv 2311.13831."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ids3d.config.bounds import check_bounds
from ids3d.models.guidance.distillation import Distillation, EditStep, GuidanceConfig
from ids3d.registry import register
from ids3d.schedule import DiffusionSchedule


@register("guidance", "pds")
class PDS(Distillation):
    """∇ = ζ_trg − ζ_src with ζ = (z_{t′} − μ(z_t, ε^ω)) / σ_t, the noise that takes z_t to z_{t′}.

    t′ is the step before t on a schedule of `steps` steps; both latents share ε, of z_t, and ε′, of z_{t′}.
    """

    @dataclass
    class Config(GuidanceConfig):
        guidance_scale: float = 100.0
        t_range: tuple[float, float] = (0.02, 0.98)
        steps: int = 500  # parts that the schedule is divided into; t′ is one of them before t
        # How a step from t to t′ is made: μ and σ_t with the β_t of one step of the full schedule (published), or of
        # the whole step from t to t′ (exact).
        posterior: Literal["published", "exact"] = "published"

        def __post_init__(self) -> None:
            super().__post_init__()
            check_bounds(self, steps="[1, 1e6]")

    cfg: Config
    noises = 2

    @property
    def first_timestep(self) -> int:
        """t − t′: before an earlier t there is no t′."""
        return max(self.schedule.num_timesteps // self.cfg.steps, 1)

    def gradient(self, step: EditStep) -> Tensor:
        schedule, (eps, eps_prev) = self.schedule, step.noises
        t, t_prev = step.t, step.t - self.first_timestep
        z_t_src, z_t_trg = schedule.add_noise(step.z_src, eps, t), schedule.add_noise(step.z_trg, eps, t)
        eps_src, eps_trg = self.predict_pair(step, z_t_src, z_t_trg)
        zeta = []
        for z, z_t, eps_hat in ((step.z_src, z_t_src, eps_src), (step.z_trg, z_t_trg, eps_trg)):
            mean, std = posterior(schedule, z_t, eps_hat, t, t_prev, self.cfg.posterior)
            zeta.append((schedule.add_noise(z, eps_prev, t_prev) - mean) / std)
        return zeta[1] - zeta[0]


def posterior(
    schedule: DiffusionSchedule,
    z_t: Tensor,
    eps: Tensor,
    t: Tensor,
    t_prev: Tensor,
    variant: Literal["published", "exact"],
) -> tuple[Tensor, Tensor]:
    """Return the mean μ (b, c, h, w) and the standard deviation σ_t (b, 1, 1, 1) of z_{t′}, given z_t and its noise.

    DDPM, Ho et al. 2020, equations 6 and 7, with t′ in place of t−1. There β_t is 1 − ᾱ_t/ᾱ_{t′} ("exact"); with it the
    terms in z_trg − z_src cancel, whatever the schedule, and PDS is DDS times √ᾱ_{t′} β_t / (√ᾱ_t √(1−ᾱ_t) σ_t). The
    published code takes β_t = 1 − ᾱ_t/ᾱ_{t−1} although t′ is two steps off; that leaves a pull of z_trg towards z_src,
    the identity-preserving term of the paper, and is therefore the default.
    """
    # On the CPU, in double precision: in single β_t loses half its digits.
    double = torch.empty(1, 1, 1, 1, dtype=torch.float64)
    a_t, a_prev = schedule.alpha_bar(t.cpu(), double), schedule.alpha_bar(t_prev.cpu(), double)
    alpha = a_t / (a_prev if variant == "exact" else schedule.alpha_bar(t.cpu() - 1, double))
    beta = 1 - alpha
    of_z_0 = a_prev.sqrt() * beta / (1 - a_t)
    of_z_t = alpha.sqrt() * (1 - a_prev) / (1 - a_t)
    mean = of_z_0.to(z_t) * schedule.posterior_mean(z_t, eps, t) + of_z_t.to(z_t) * z_t
    return mean, ((1 - a_prev) / (1 - a_t) * beta).sqrt().to(z_t)
