"""Edit a reconstructed scene from one prompt to another, by the guidance of a diffusion prior on its rendered views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from ids3d.cameras import Cameras
from ids3d.config.bounds import STEPS, STEPS_OR_NONE, check_bounds
from ids3d.images import colour_depth, depth_range, difference, resize
from ids3d.metrics import psnr
from ids3d.models.priors.protocol import Prompt, editing_size
from ids3d.models.renderers.protocol import Render, Renderer
from ids3d.registry import register
from ids3d.seeding import generator_for
from ids3d.systems.edit_scene.protocol import SceneEdit
from ids3d.systems.optim import CalibratedSGD, ScalarAdam, cosine


@register("edit-scene", "pull-back")
class EditScene(pl.LightningModule):
    """Each step: render views -> encode -> guidance -> back through the encoder to the pixels -> back to the field.

    The gradient in the pixels is computed on renders without a graph; the rays are then rendered again in chunks with
    one (deferred back-propagation), so memory depends on the chunk and not on the image.

    Args:
        cfg: settings.
        renderer: of the field to edit; trained in place.
        edit: what is to be edited, and by what.
    """

    @dataclass
    class Config:
        steps: int = 200
        # What a step's length means depends on the optimiser. sgd: the published 2D step, per element of the latent,
        # 0.1 * 2000 / (64 * 64) (see CalibratedSGD). scalar-adam, adam: change of a parameter in its own units.
        optimiser: Literal["sgd", "scalar-adam", "adam"] = "sgd"
        lr: float = 0.0488
        momentum: float = 0.9
        # sgd: what single steps contradict each other about stays as it is (see CalibratedSGD)
        shrink: bool = True
        decay: bool = True  # the step falls to zero along half a cosine; false: it stays
        views_per_step: int = 1  # guidance of several views is averaged
        appearance_only: bool = False  # the density stays as it was reconstructed
        # what z_src is: the unedited field's render, or the photograph
        source: Literal["render", "photo"] = "render"
        validate_every: int = 50  # steps; 0 = never
        log_every: int = 10  # steps

        def __post_init__(self) -> None:
            check_bounds(self, steps=STEPS, log_every=STEPS, validate_every=STEPS_OR_NONE)
            check_bounds(self, lr="(0, 1000]", momentum="[0, 1)", views_per_step="[1, 1000]")

    def __init__(self, cfg: Config, renderer: Renderer, edit: SceneEdit) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.cfg, self.renderer, self.scene, self.seed = cfg, renderer, edit.scene, edit.seed
        self.prior, self.guidance, self.tracking = edit.prior, edit.guidance, edit.tracking
        source, target = edit.prompts
        self._prompts: tuple[Prompt, Prompt] = (self.prior.embed([source]), self.prior.embed([target]))
        cameras = self.scene.train.cameras
        self.size = editing_size(cameras.height, cameras.width, self.prior)
        self._cameras = cameras.resized(*self.size)
        self.sources = SourceLatents(cfg.source, edit, self.size)

    def setup(self, stage: str) -> None:
        self._cameras = self._cameras.to(self.device)
        if self.cfg.appearance_only:
            for parameter in self.renderer.parameter_groups().density:
                parameter.requires_grad_(False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        cfg, groups = self.cfg, self.renderer.parameter_groups()
        parameters = [p for p in (*groups.density, *groups.appearance) if p.requires_grad]
        if cfg.optimiser == "sgd":
            return CalibratedSGD(parameters, lr=cfg.lr, momentum=cfg.momentum, shrink=cfg.shrink)
        if cfg.optimiser == "scalar-adam":
            return ScalarAdam(parameters, lr=cfg.lr, betas=(cfg.momentum, 0.99))
        return torch.optim.Adam(parameters, lr=cfg.lr, betas=(cfg.momentum, 0.99), eps=1e-15)

    def batch_of_step(self, index: int) -> list[int]:
        """The training views of a step: all of them in turn, in an order drawn anew for each round."""
        n, count = len(self._cameras), self.cfg.views_per_step
        views = []
        for k in range(index * count, (index + 1) * count):
            order = torch.randperm(n, generator=generator_for(self.seed, "views", k // n))
            views.append(int(order[k % n]))
        return views

    def training_step(self, views: list[int], batch_idx: int) -> None:
        step, cfg = self.global_step, self.cfg
        optimiser: Any = self.optimizers()
        optimiser.zero_grad(set_to_none=True)
        for group in optimiser.param_groups:
            group["lr"] = cfg.lr * (cosine(step / cfg.steps) if cfg.decay else 1.0)

        figures, signal_sq = self.guide(views, step)
        inner = optimiser.optimizer  # Lightning's wrapper has the class, but not the state, of what it wraps
        if isinstance(inner, CalibratedSGD):
            inner.observe(signal_sq)
            figures["gain"] = inner.gain
        optimiser.step()

        self.log("edit/lr", optimiser.param_groups[0]["lr"])
        for name, value in figures.items():
            self.log(f"edit/{name}", value, prog_bar=name in ("grad_rms", "moved"))

    def guide(self, views: list[int], step: int) -> tuple[dict[str, float], float]:
        """Add to the field's gradients the guidance of `views`, averaged over them.

        Returns:
            Figures to log, and the squared norm of the gradient in the latents that was propagated back.
        """
        cameras = [self._cameras[v] for v in views]
        images = torch.stack([self.renderer.render(c).rgb.permute(2, 0, 1) for c in cameras])
        images = images.requires_grad_(True)
        with torch.enable_grad():
            z_trg = self.prior.encode(images)
        z_src = torch.stack([self.sources.latent(v, self._cameras[v]) for v in views])
        output = self.guidance(
            z_src,
            z_trg.detach(),
            *self._prompts,
            generator_for(self.seed, "guidance", step),
            progress=step / self.cfg.steps,
        )
        grad = output.grad.to(z_trg) / len(views)
        (d_images,) = torch.autograd.grad(z_trg, images, grad_outputs=grad)
        for camera, d_rgb in zip(cameras, d_images.permute(0, 2, 3, 1), strict=True):
            self.renderer.backward(camera, d_rgb)
        moved = (z_trg.detach() - z_src).square().mean().sqrt()
        return {**output.figures, "moved": float(moved)}, float(grad.square().sum())

    def validation_step(self, view: int, batch_idx: int) -> None:
        """Figures against the truth, where it is known, and a panel, both at the size at which is edited."""
        camera, truth = self.scene.test.cameras[view].resized(*self.size).to(self.device), self.scene.truth
        edited = self.renderer.render(camera)
        if truth is not None:
            image, mask = (
                resize(t[view].float(), self.size).to(self.device)
                for t in (truth.images, truth.masks[..., None])
            )
            touched = mask[..., 0] > 0
            self.log("edit/psnr_inside_at_prior_size", psnr(edited.rgb, image, touched), batch_size=1)
            self.log("edit/psnr_outside_at_prior_size", psnr(edited.rgb, image, ~touched), batch_size=1)
        if self.tracking is not None:
            images = comparison(self.sources.renderer.render(camera), edited)
            self.tracking.log_panel(f"edit/{self.scene.test.names[view]}", images, self.global_step)


class SourceLatents:
    """The latents of the unedited training views, each made when it is first asked for.

    Args:
        of: "render": of the unedited field's render; "photo": of the photograph.
        edit: whose scene, prior and unedited field are looked at.
        size: (height, width) at which is edited.
    """

    def __init__(self, of: Literal["render", "photo"], edit: SceneEdit, size: tuple[int, int]) -> None:
        self.of, self.prior, self.renderer, self.size = of, edit.prior, edit.source, size
        self._photos = edit.scene.train.images
        self._latents: dict[int, Tensor] = {}

    @torch.no_grad()
    def latent(self, view: int, camera: Cameras) -> Tensor:
        """z_src (c, h, w) of a training view and its camera, resized to the size at which is edited."""
        if view not in self._latents:
            if self.of == "photo":
                image = resize(self._photos[view].to(camera.device), self.size)
            else:
                image = self.renderer.render(camera).rgb
            self._latents[view] = self.prior.encode(image.permute(2, 0, 1)[None])[0].float()
        return self._latents[view]


def comparison(source: Render, edited: Render) -> dict[str, Tensor]:
    """Images (h, w, 3) in [0, 1] to be shown side by side, by their captions; both depths on one scale."""
    near, far = depth_range([source.depth, edited.depth])
    return {
        "source": source.rgb,
        "edited": edited.rgb,
        "source depth": colour_depth(source.depth, near, far),
        "edited depth": colour_depth(edited.depth, near, far),
        "difference": difference(source.rgb, edited.rgb),
    }
