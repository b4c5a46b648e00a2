"""Edit a reconstructed scene from one prompt to another, by the guidance of a diffusion prior on its rendered views."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from ids3d.config.bounds import STEPS, check_bounds
from ids3d.models.renderers.protocol import Renderer
from ids3d.models.samplers.protocol import Sampler
from ids3d.registry import register
from ids3d.seeding import generator_for
from ids3d.systems.edit_scene.editing import EditingSystem
from ids3d.systems.edit_scene.protocol import EditConfig, SceneEdit
from ids3d.systems.optim import CalibratedSGD, cosine
from ids3d.systems.work import Work


@register("edit-scene", "pull-back")
class EditScene(EditingSystem):
    """Each step: render views -> encode -> guidance -> back through the encoder to the pixels -> back to the field.

    The gradient in the pixels is computed on renders without a graph; the rays are then rendered again in chunks with
    one (deferred back-propagation), so memory depends on the chunk and not on the image.

    Args:
        cfg: settings.
        renderer: of the field to edit; trained in place.
        edit: what is to be edited, and by what.
    """

    @dataclass
    class Config(EditConfig):
        steps: int = 200  # steps of the guidance, each on views_per_step views
        decay: bool = True  # the step falls to zero along half a cosine; false: it stays
        views_per_step: int = 1  # views a step; the guidance of several is averaged

        def __post_init__(self) -> None:
            super().__post_init__()
            check_bounds(self, steps=STEPS, views_per_step="[1, 1000]")

        def is_more_than(self, earlier: EditConfig) -> bool:
            return (
                isinstance(earlier, EditScene.Config)
                and self.steps > earlier.steps
                and replace(self, steps=earlier.steps) == earlier
            )

    cfg: Config

    def __init__(self, cfg: Config, renderer: Renderer, edit: SceneEdit) -> None:
        super().__init__(cfg, renderer, edit)
        assert not isinstance(edit.method, Sampler)  # `samplers` says so
        self.guidance, self.processes = edit.method, edit.processes

    def steps(self) -> int:
        return self.cfg.steps

    def work(self) -> Work:
        """See `CountsWork`."""
        cfg, (height, width) = self.cfg, self.size
        edits, looks = (
            cfg.steps * cfg.views_per_step,
            cfg.steps // cfg.validate_every if cfg.validate_every else 0,
        )
        sources, views = min(edits, len(self.cameras)), f"{cfg.views_per_step} view"
        return Work(
            f"{cfg.steps:,} steps on {views}{'s' * (cfg.views_per_step > 1)}, each pulled back to the field",
            guided=edits,
            batch=cfg.views_per_step,
            coded=3 * edits + sources,  # forwards with a graph, and backwards, which is about two more
            trained_rays=edits * height * width,
            rendered_rays=(edits + sources + 2 * looks * len(self.scene.test)) * height * width,
            uncounted=self.uncounted,
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = self.renderer.parameter_groups()
        parameters = [p for p in (*groups.density, *groups.appearance) if p.requires_grad]
        return CalibratedSGD(parameters, lr=self.cfg.lr)

    def batch_of_step(self, index: int) -> list[int]:
        """The training views of a step: all of them in turn, in an order drawn anew for each round."""
        n, count = len(self.cameras), self.cfg.views_per_step
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
        if self.processes > 1:
            # The mean over processes is taken of what each propagates back: of each gradient in the latents, a share.
            share = self.trainer.strategy.reduce(torch.tensor(signal_sq, device=self.device), reduce_op="sum")
            signal_sq = float(share) / self.processes**2
        inner = optimiser.optimizer  # Lightning's wrapper has the class, but not the state, of what it wraps
        inner.observe(signal_sq)
        optimiser.step()
        figures["gain"] = inner.gain

        self.log("edit/lr", optimiser.param_groups[0]["lr"])
        for name, value in figures.items():
            self.log(f"edit/{name}", value, prog_bar=name in ("grad_rms", "moved"))

    def guide(self, views: list[int], step: int) -> tuple[dict[str, float], float]:
        """Add to the field's gradients the guidance of `views`, averaged over them.

        Returns:
            Figures to log, and the squared norm of the gradient in the latents that was propagated back.
        """
        cameras = [self.cameras[v] for v in views]
        images = torch.stack([self.renderer.render(c).rgb.permute(2, 0, 1) for c in cameras])
        images = images.requires_grad_(True)
        with torch.enable_grad():
            z_trg = self.prior.encode(images)
        z_src = torch.stack([self.sources.latent(v, self.cameras[v]) for v in views])
        output = self.guidance(
            z_src,
            z_trg.detach(),
            *self.prompts,
            generator_for(self.seed, "guidance", step * self.processes + self.global_rank),
            progress=step / self.cfg.steps,
        )
        self.curves.add(output.trace)
        finite = self.watch.finite(output.grad)
        grad = torch.where(finite[:, None, None, None], output.grad, 0).to(z_trg) / len(views)
        region = self.region
        if region is not None:
            grad = grad * region.latents[views]
        (d_images,) = torch.autograd.grad(z_trg, images, grad_outputs=grad)
        if region is not None:
            d_images = d_images * F.interpolate(region.images[views, None], self.size, mode="area")
        for camera, d_rgb, counts in zip(cameras, d_images.permute(0, 2, 3, 1), finite.tolist(), strict=True):
            if counts:
                self.renderer.backward(camera, d_rgb)
        moved = (z_trg.detach() - z_src).square().mean().sqrt()
        return {**output.figures, "moved": float(moved)}, float(grad.square().sum())
