"""Edit a reconstructed scene from one prompt to another, by the guidance of a diffusion prior on its rendered views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from ids3d.metrics import psnr
from ids3d.pictures import colour_depth, depth_range, difference
from ids3d.registry import register
from ids3d.scene import Scene
from ids3d.seeding import generator_for
from ids3d.tracking import Tracking
from models.guidance.common import Guided
from models.priors.prior import Prior, Prompt, picture_size
from models.renderers.occupancy import OccupancyRenderer, Render
from systems.optim import CalibratedSGD, ScalarAdam, cosine


@register("system", "edit-scene")
class EditScene(pl.LightningModule):
    """Each step: render views -> encode -> guidance -> back through the encoder to the pixels -> back to the field.

    The gradient in the pixels is computed on renders without a graph; the rays are then rendered again in chunks with
    one (deferred back-propagation), so memory depends on the chunk and not on the picture.

    Args:
        cfg: settings.
        renderer: of the field to edit; trained in place.
        source: the renderer of the same field, unedited.
        scene: its training views are edited; panels are made of its held-out ones.
        prior, guidance: frozen; not part of the checkpoints.
        prompts: (source, target).
        seed: with the step's number, determines the step's views, noise and timesteps.
        tracking: gets a panel of each held-out view at every validation.
    """

    @dataclass
    class Config:
        steps: int = 200
        # What a step's length means depends on the optimiser. sgd: the published 2D step, per element of the latent,
        # 0.1 * 2000 / (64 * 64) (see CalibratedSGD). scalar-adam, adam: change of a parameter in its own units.
        optimiser: Literal["sgd", "scalar-adam", "adam"] = "sgd"
        lr: float = 0.0488
        momentum: float = 0.9
        shrink: bool = (
            True  # sgd: what single steps contradict each other about stays as it is (see CalibratedSGD)
        )
        decay: bool = True  # the step falls to zero along half a cosine; false: it stays
        views_per_step: int = 1  # guidance of several views is averaged
        appearance_only: bool = False  # the density stays as it was reconstructed
        source: Literal["render", "photo"] = (
            "render"  # what z_src is: the unedited field's render, or the photograph
        )
        validate_every: int = 50  # steps; 0 = never
        log_every: int = 10  # steps

        def __post_init__(self) -> None:
            if self.steps < 1 or self.views_per_step < 1:
                raise ValueError("steps and views_per_step must be at least 1")
            if self.lr <= 0 or not 0 <= self.momentum < 1:
                raise ValueError("lr must be positive and momentum in [0, 1)")

    def __init__(
        self,
        cfg: Config,
        renderer: OccupancyRenderer,
        source: OccupancyRenderer,
        scene: Scene,
        prior: Prior,
        guidance: Callable[..., Guided],
        prompts: tuple[str, str],
        seed: int,
        tracking: Tracking | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.cfg, self.renderer, self.scene, self.seed = cfg, renderer, scene, seed
        self.tracking = tracking
        self.size = picture_size(scene.train.cameras.height, scene.train.cameras.width, prior)
        # In a tuple, so that nn.Module does not take the prior and the source for parts of what is trained and saved.
        self._frozen = (prior, guidance, source)
        self._prompts: tuple[Prompt, Prompt] = (prior.embed([prompts[0]]), prior.embed([prompts[1]]))
        self._cameras = scene.train.cameras.resized(*self.size)
        self._sources: dict[int, Tensor] = {}  # view -> z_src (c, h, w), made when the view is first used

    def setup(self, stage: str) -> None:
        self._cameras = self._cameras.to(self.device)
        if self.cfg.appearance_only:
            for parameter in self.renderer.geometry.density_parameters():
                parameter.requires_grad_(False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        cfg, parameters = self.cfg, [p for p in self.renderer.parameters() if p.requires_grad]
        if cfg.optimiser == "sgd":
            return CalibratedSGD(parameters, lr=cfg.lr, momentum=cfg.momentum, shrink=cfg.shrink)
        if cfg.optimiser == "scalar-adam":
            return ScalarAdam(parameters, lr=cfg.lr, betas=(cfg.momentum, 0.99))
        return torch.optim.Adam(parameters, lr=cfg.lr, betas=(cfg.momentum, 0.99), eps=1e-15)

    def training_step(self, batch: int, batch_idx: int) -> None:
        step, cfg = self.global_step, self.cfg
        optimiser: Any = self.optimizers()
        optimiser.zero_grad(set_to_none=True)
        for group in optimiser.param_groups:
            group["lr"] = cfg.lr * (cosine(step / cfg.steps) if cfg.decay else 1.0)

        views = self.views_of_step(step)
        figures, signal_sq = self.guide(views, step)
        inner = optimiser.optimizer  # Lightning's wrapper has the class, but not the state, of what it wraps
        if isinstance(inner, CalibratedSGD):
            inner.observe(signal_sq)
            figures["gain"] = inner.gain
        optimiser.step()

        self.log("edit/lr", optimiser.param_groups[0]["lr"])
        for name, value in figures.items():
            self.log(f"edit/{name}", value, prog_bar=name in ("grad_rms", "moved"))

    def views_of_step(self, step: int) -> list[int]:
        """The training views of a step: all of them in turn, in an order drawn anew for each round."""
        n, count = len(self._cameras), self.cfg.views_per_step
        views = []
        for k in range(step * count, (step + 1) * count):
            order = torch.randperm(n, generator=generator_for(self.seed, "views", k // n))
            views.append(int(order[k % n]))
        return views

    def guide(self, views: list[int], step: int) -> tuple[dict[str, float], float]:
        """Adds to the field's gradients the guidance of `views`, averaged over them.

        Returns:
            Figures to log, and the squared norm of the gradient in the latents that was propagated back.
        """
        prior, guidance, _ = self._frozen
        cameras = [self._cameras[v] for v in views]
        pictures = torch.stack([self.renderer.render(c).rgb.permute(2, 0, 1) for c in cameras])
        pictures = pictures.requires_grad_(True)
        with torch.enable_grad():
            z_trg = prior.encode(pictures)
        z_src = torch.stack([self.source_latent(v) for v in views])
        guided = guidance(
            z_src,
            z_trg.detach(),
            *self._prompts,
            generator_for(self.seed, "guidance", step),
            progress=step / self.cfg.steps,
        )
        grad = guided.grad.to(z_trg) / len(views)
        (d_pictures,) = torch.autograd.grad(z_trg, pictures, grad_outputs=grad)
        for camera, d_rgb in zip(cameras, d_pictures.permute(0, 2, 3, 1), strict=True):
            self.renderer.backward(camera, d_rgb)
        moved = (z_trg.detach() - z_src).square().mean().sqrt()
        return {**guided.figures, "moved": float(moved)}, float(grad.square().sum())

    @torch.no_grad()
    def source_latent(self, view: int) -> Tensor:
        """z_src (c, h, w) of a training view. Made once, from the unedited field's render or from the photograph."""
        if view not in self._sources:
            prior, _, source = self._frozen
            if self.cfg.source == "photo":
                picture = self._small(self.scene.train.images[view].to(self.device))
            else:
                picture = source.render(self._cameras[view]).rgb
            self._sources[view] = prior.encode(picture.permute(2, 0, 1)[None])[0].float()
        return self._sources[view]

    def validation_step(self, view: int, batch_idx: int) -> None:
        """Figures against the truth, where it is known, and a panel, both at the size at which is edited."""
        camera, truth = self.scene.test.cameras[view].resized(*self.size).to(self.device), self.scene.truth
        edited = self.renderer.render(camera)
        if truth is not None:
            picture, mask = (
                self._small(t[view]).to(self.device) for t in (truth.images, truth.masks[..., None].float())
            )
            touched = mask[..., 0] > 0
            self.log("edit/psnr_inside", psnr(edited.rgb, picture, touched), batch_size=1)
            self.log("edit/psnr_outside", psnr(edited.rgb, picture, ~touched), batch_size=1)
        if self.tracking is not None:
            pictures = comparison(self._frozen[2].render(camera), edited)
            self.tracking.log_panel(f"edit/{self.scene.test.names[view]}", pictures, self.global_step)

    def _small(self, picture: Tensor) -> Tensor:
        """A picture (H, W, c) of the scene at the size at which is edited."""
        channels_first = picture.permute(2, 0, 1)[None].float()
        small = F.interpolate(channels_first, self.size, mode="bilinear", antialias=True, align_corners=False)
        return small[0].permute(1, 2, 0).clamp(0, 1)


def comparison(source: Render, edited: Render) -> dict[str, Tensor]:
    """Pictures (h, w, 3) in [0, 1] to be shown side by side, by their captions; both depths on one scale."""
    near, far = depth_range([source.depth, edited.depth])
    return {
        "source": source.rgb,
        "edited": edited.rgb,
        "source depth": colour_depth(source.depth, near, far),
        "edited depth": colour_depth(edited.depth, near, far),
        "difference": difference(source.rgb, edited.rgb),
    }
