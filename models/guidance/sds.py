"""Score Distillation Sampling: DreamFusion, Poole et al. 2022, arXiv 2209.14988."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ids3d.models.guidance.distillation import Distillation, EditStep, GuidanceConfig
from ids3d.registry import register


@register("guidance", "sds")
class SDS(Distillation):
    """∇ = w(t) (ε^ω(z_t^trg, y_trg, t) − ε), equation 3 of the paper. The source plays no part in it."""

    @dataclass
    class Config(GuidanceConfig):
        weighting: Literal["one", "sigma2"] = "sigma2"  # w(t) = σ_t², as in the paper

    def gradient(self, step: EditStep) -> Tensor:
        z_t_trg = self.schedule.add_noise(step.z_trg, step.eps, step.t)
        if self.takes_attention(step):  # it is the source's, which has to be predicted for it
            z_t_src = self.schedule.add_noise(step.z_src, step.eps, step.t)
            return self.predict_pair(step, z_t_src, z_t_trg)[1] - step.eps
        eps_trg = self.prior.predict_noise(z_t_trg, step.t, step.target, self.cfg.guidance_scale)
        return eps_trg - step.eps
