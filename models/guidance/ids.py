"""Identity-preserving Distillation Sampling: Kim et al. 2025, arXiv 2502.19930."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ids3d.config.bounds import check_bounds
from ids3d.models.guidance.cut import ContrastiveDistillation, CutConfig
from ids3d.models.guidance.distillation import EditStep
from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.registry import register


@register("guidance", "ids")
class IDS(ContrastiveDistillation):
    """DDS with a noise corrected so that the source's posterior mean is the source (algorithm 1). N = 0 is DDS.

    Example, in a loop of your own:
        >>> from ids3d.models.priors.tabletop import Tabletop
        >>> prior, generator = Tabletop(Tabletop.Config()), torch.Generator().manual_seed(0)
        >>> guidance = IDS(IDS.Config(), prior)
        >>> source, target = prior.embed(["a red cube"]), prior.embed(["a blue cube"])
        >>> z_src = z_trg = prior.encode(torch.rand(1, 3, 64, 64, generator=generator)).detach()
        >>> z_trg = z_trg - 0.0488 * guidance(z_src, z_trg, source, target, generator).grad
    """

    @dataclass
    class Config(CutConfig):
        fpr_iterations: int = 3  # N, the iterations of fixed-point regularisation (FPR) a step; 0 is DDS
        fpr_scale: float = 1.0  # λ, the length of an iteration's step
        # How an iteration steps. fixed: by λ, as published; polyak: by λ ‖r‖ / ‖g‖², r the residual, g its norm's
        # gradient (λ = 0.7 does well; Polyak 1969).
        fpr_step: Literal["fixed", "polyak"] = "fixed"

        def __post_init__(self) -> None:
            super().__post_init__()
            check_bounds(self, fpr_iterations="[0, 1000]", fpr_scale="[0, 1000]")

    cfg: Config

    def gradient(self, step: EditStep) -> Tensor:
        """Return ∇; among the figures, residual_i is ‖z_src − z_{0|t}‖ after i iterations."""
        z_t_src, eps, residuals = fixed_point(self.cfg, self.prior, step.z_src, step.source, step.t, step.eps)
        z_t_trg = self.schedule.add_noise(step.z_trg, eps, step.t)
        eps_src, eps_trg, cut = self.predict_pair_and_cut(step, z_t_src, z_t_trg)
        residuals.append(_distance(step.z_src, self.schedule.posterior_mean(z_t_src, eps_src, step.t)))
        means = torch.stack(residuals).mean(1).tolist()
        step.figures.update({f"residual_{i}": mean for i, mean in enumerate(means)})
        step.residuals.extend(residuals)
        return eps_trg - eps_src + self.cfg.w_cut * cut


def fixed_point(
    cfg: IDS.Config, prior: Prior, z_src: Tensor, source: Prompt, t: Tensor, eps: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Fixed-point regularisation, lines 4 to 9 of algorithm 1: descend ‖z_src − z_{0|t}‖₂ through the UNet.

    Args:
        z_src, eps: the source (b, c, h, w) and the noise drawn for it.
        source: b prompts, or one for all.
        t: (b,).
    Returns: z_t^src and the guided noise ε* (b, c, h, w), and the residual ‖z_src − z_{0|t}‖ (b,) before each
        iteration; all without a graph. Each latent gets what it would alone.
    """
    schedule = prior.schedule
    z_src, start = z_src.detach(), schedule.add_noise(z_src, eps, t).detach()
    z_t, residuals = start, []
    for _ in range(cfg.fpr_iterations):
        with torch.enable_grad():
            z_t = z_t.detach().requires_grad_()
            eps_src = prior.predict_noise(z_t, t, source, cfg.guidance_scale)
            residual = _distance(z_src, schedule.posterior_mean(z_t, eps_src, t))
            (g,) = torch.autograd.grad(residual.sum(), z_t)  # of the sum: each latent's own gradient
        residuals.append(residual.detach())
        step = torch.full_like(residuals[-1], cfg.fpr_scale)
        if cfg.fpr_step == "polyak":
            step = step * residuals[-1] / g.square().sum(dim=(1, 2, 3)).clamp(min=1e-12)
        z_t = z_t.detach() - step.view(-1, 1, 1, 1) * g
    # ε* = (z_t^src − √ᾱ_t z_src) / √(1−ᾱ_t), written as a correction of ε: with no iteration it is ε to the bit.
    return z_t, eps + (z_t - start) / schedule.sigma(t, z_t), residuals


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖₂ of each latent, (b,)."""
    return torch.linalg.vector_norm(a - b, dim=(1, 2, 3))
