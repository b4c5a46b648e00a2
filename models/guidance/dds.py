"""Delta Denoising Score: Hertz et al. 2023, arXiv 2304.07090."""

from __future__ import annotations

from torch import Tensor

from ids3d.models.guidance.distillation import Distillation, EditStep, GuidanceConfig
from ids3d.registry import register


@register("guidance", "dds")
class DDS(Distillation):
    """∇ = ε^ω(z_t^trg, y_trg, t) − ε^ω(z_t^src, y_src, t), with the same t and noise for both."""

    Config = GuidanceConfig

    def gradient(self, step: EditStep) -> Tensor:
        z_t_src = self.schedule.add_noise(step.z_src, step.eps, step.t)
        z_t_trg = self.schedule.add_noise(step.z_trg, step.eps, step.t)
        eps_src, eps_trg = self.predict_pair(step, z_t_src, z_t_trg)
        return eps_trg - eps_src
