"""Contrastive Denoising Score: Nam et al. 2024, arXiv 2311.18608."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ids3d.models.guidance.cut import ContrastiveDistillation, CutConfig
from ids3d.models.guidance.distillation import EditStep
from ids3d.registry import register


@register("guidance", "cds")
class CDS(ContrastiveDistillation):
    """∇ = DDS's gradient + w_cut · ∇_{z_trg} ℓ_CUT (see `cut.py`). With w_cut = 0 it is DDS."""

    @dataclass
    class Config(CutConfig):
        w_cut: float = 3.0

    def gradient(self, step: EditStep) -> Tensor:
        z_t_src = self.schedule.add_noise(step.z_src, step.eps, step.t)
        z_t_trg = self.schedule.add_noise(step.z_trg, step.eps, step.t)
        eps_src, eps_trg, cut = self.predict_pair_and_cut(step, z_t_src, z_t_trg)
        return eps_trg - eps_src + self.cfg.w_cut * cut
