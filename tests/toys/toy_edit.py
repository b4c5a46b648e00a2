"""A way to edit scenes through images: edit a rendered view, and fit the field to the edited image."""

from __future__ import annotations

from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from ids3d.images import resize
from ids3d.models.priors.protocol import editing_size
from ids3d.models.renderers.protocol import Renderer
from ids3d.seeding import generator_for
from ids3d.systems.edit_scene.protocol import SceneEdit


class ThroughImages(pl.LightningModule):
    samplers = False

    @dataclass
    class Config:
        steps: int = 3
        strength: float = 0.5
        lr: float = 0.05
        validate_every: int = 2
        log_every: int = 1

    def __init__(self, cfg: Config, renderer: Renderer, edit: SceneEdit) -> None:
        super().__init__()
        self.cfg, self.renderer, self.inputs = cfg, renderer, edit
        self.prompts = [edit.prior.embed([text]) for text in edit.prompts]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.renderer.parameter_groups().appearance, lr=self.cfg.lr)

    def steps(self) -> int:
        return self.cfg.steps

    def batch_of_step(self, index: int) -> int:
        return index % len(self.inputs.scene.train)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        camera = self.inputs.scene.train.cameras[batch].to(self.device)
        target = self._edited(batch)
        size = (camera.height, camera.width)
        loss = F.mse_loss(self.renderer(camera.rays().flatten()).rgb, resize(target, size).reshape(-1, 3))
        self.log("edit/loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def _edited(self, view: int) -> Tensor:
        """The edited image of a training view, (h, w, 3)."""
        prior, cameras = self.inputs.prior, self.inputs.scene.train.cameras
        size = editing_size(cameras.height, cameras.width, prior)
        image = self.renderer.render(cameras.resized(*size)[view].to(self.device)).rgb
        z = prior.encode(image.permute(2, 0, 1)[None])
        generator = generator_for(self.inputs.seed, "toy", self.global_step)
        pull = self.inputs.method(z, z, *self.prompts, generator, self.global_step / self.cfg.steps)
        return prior.decode(z - self.cfg.strength * pull.grad)[0].permute(1, 2, 0)

    def validation_step(self, view: int, batch_idx: int) -> None:
        camera = self.inputs.scene.test.cameras[view].to(self.device)
        self.log("edit/brightness", self.renderer.render(camera).rgb.mean(), batch_size=1)
