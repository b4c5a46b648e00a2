"""Edit a reconstructed scene by editing its views' images, and fitting the field to them, in rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ids3d.config.bounds import SHARE, STEPS, WEIGHT, check_bounds
from ids3d.guided_filter import guided_filter
from ids3d.models.renderers.protocol import Renderer
from ids3d.models.samplers.protocol import Sampler
from ids3d.progress import QUICK, track
from ids3d.registry import register
from ids3d.seeding import generator_for
from ids3d.systems.edit_scene.editing import EditingSystem
from ids3d.systems.edit_scene.protocol import EditConfig, SceneEdit
from ids3d.systems.edit_scene.region import Region
from ids3d.systems.edit_scene.rounds import FitStep, GuidanceStep, Rounds
from ids3d.systems.edit_scene.targets import EditedImages, edited_opacity, enlarged, fading
from ids3d.systems.random_background import BLACK, before_random_background
from ids3d.systems.work import PASSES, Work


@register("edit-scene", "pictures")
class EditThroughPictures(EditingSystem):
    """Each round: views are rendered and encoded, the method edits their latents, the field is fitted to the results.

    Nothing goes back through the encoder. A view's target is its source plus what the edit changes once decoded,
    source + decode(z_trg) − decode(z_src), always relative to the source, so that what encoder and decoder lose is not
    lost again in each round, and carried to the photograph's own edges where the prior is coarse (`follow_edges`);
    where it is not, what they lose of the source goes with what was there (see `targets.fading`).
    Views that were edited differently meet in the field; the next round begins from its renders (Instruct-NeRF2NeRF,
    Haque et al. 2023, replaces images one by one instead). Any guidance serves; a sampler edits the sources once, in a
    single round.
    """

    @dataclass
    class Config(EditConfig):
        source: Literal["render", "photo"] = "photo"
        steps: int = 200  # steps of a guidance on each view; every round makes its share of them, rounded up
        # In each, views are edited as the field then shows them, and the field is fitted to them.
        rounds: int = 4
        views_per_batch: int = 8  # views edited at once: memory and speed, not the result
        fit_steps: int = 60  # steps in which the field is fitted to the edited views, in each round
        rays_per_step: int = 2048  # rays drawn for a step of the fit
        # Share of them that is drawn by the root of what the edit changes, the rest anywhere: few rays meet an object.
        changed_rays: float = 0.25
        # Adam's rate of the density at the first step of a round; a tenth of it at the last.
        lr_density: float = 0.3
        lr_appearance: float = 0.1  # the same, of the colours
        distortion: float = 0.2  # weight of how far a ray's samples are spread, where the density is free

        def __post_init__(self) -> None:
            super().__post_init__()
            check_bounds(self, steps=STEPS, rounds="[1, 1000]", fit_steps=STEPS)
            check_bounds(self, views_per_batch="[1, 1000]", rays_per_step="[1, 1e7]", distortion=WEIGHT)
            check_bounds(self, changed_rays=SHARE, lr_density="(0, 100]", lr_appearance="(0, 100]")

        @property
        def steps_per_round(self) -> int:
            return math.ceil(self.steps / self.rounds)

        def is_more_than(self, earlier: EditConfig) -> bool:
            return (
                isinstance(earlier, EditThroughPictures.Config)
                and self.rounds > earlier.rounds
                and self.steps_per_round == earlier.steps_per_round
                and replace(self, rounds=earlier.rounds, steps=earlier.steps) == earlier
            )

    samplers = True
    cfg: Config

    def __init__(self, cfg: Config, renderer: Renderer, edit: SceneEdit) -> None:
        super().__init__(cfg, renderer, edit)
        self.method, self.processes = edit.method, edit.processes
        views = range(len(self.cameras))
        batches = tuple(tuple(views[i : i + cfg.views_per_batch]) for i in views[:: cfg.views_per_batch])
        several = cfg.rounds, cfg.steps_per_round
        count, steps = (1, 1) if isinstance(edit.method, Sampler) else several
        self.rounds = Rounds(count, batches, steps, cfg.fit_steps, edit.processes)
        # The latents of all views: a parameter, so that an optimiser steps it, and a checkpoint keeps it.
        self.latents = torch.nn.Parameter(
            torch.zeros(len(views), self.prior.latent_channels, *self.latent_size), requires_grad=False
        )
        self._images: EditedImages | None = None  # while the field is fitted to them
        self._all_cameras = self.scene.train.cameras

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._images = None
        self._all_cameras = self._all_cameras.to(self.device)

    def steps(self) -> int:
        return self.rounds.steps

    def work(self) -> Work:
        """See `CountsWork`."""
        cfg, train, rounds, (height, width) = self.cfg, self.scene.train, self.rounds, self.size
        n, at_once = len(train), len(rounds.batches[0])
        edited = rounds.turns * at_once  # by this process, at most
        looks = self.steps() // cfg.validate_every if cfg.validate_every else 0
        steps = rounds.guidance_steps
        if isinstance(self.method, Sampler):
            steps = PASSES * self.method.cfg.steps
        by = f"{steps} {'predictions' if isinstance(self.method, Sampler) else 'steps'}"
        return Work(
            f"{rounds.count} round{'s' * (rounds.count > 1)} of {by} on each of {n} views "
            f"({at_once} at once) and {cfg.fit_steps} steps of fitting {cfg.rays_per_step:,} rays",
            guided=rounds.count * steps * edited,
            batch=at_once,
            coded=n + (rounds.count - 1) * edited + 2 * rounds.count * n,
            trained_rays=rounds.count * cfg.fit_steps * cfg.rays_per_step,
            rays_at_once=cfg.rays_per_step,
            rendered_rays=((rounds.count - 1) * edited + 2 * looks * len(self.scene.test)) * height * width,
            uncounted=self.uncounted,
        )

    def batch_of_step(self, index: int) -> GuidanceStep | FitStep:
        """What is done in a step."""
        return self.rounds.step(index)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Plain SGD on the latents, as the methods are published, and Adam on the field."""
        cfg, groups = self.cfg, self.renderer.parameter_groups()
        fitted = [{"params": groups.appearance, "lr": cfg.lr_appearance}]
        if not cfg.appearance_only:
            fitted.append({"params": groups.density, "lr": cfg.lr_density})
        return [
            torch.optim.SGD([self.latents], lr=cfg.lr),
            torch.optim.Adam(fitted, betas=(0.9, 0.99)),
        ]

    def training_step(self, step: GuidanceStep | FitStep, batch_idx: int) -> None:
        sgd, adam = self.optimizers()  # type: ignore[attr-defined]
        number = self.global_step
        if isinstance(step, GuidanceStep):
            figures = self.guide(step)
            sgd.step()
            self.latents.grad = None
            if step.views:
                self.log("edit/view", float(step.views[-1] + 1), prog_bar=True, logger=False)
        else:
            figures = self.fit(step, adam)
        self.log("edit/round", float(step.round + 1), prog_bar=True, logger=False)
        # Not by self.log: Lightning would log what another kind of step has left beside what this one has found.
        if self.logger is not None and (number + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            figures = {**figures, "round": float(step.round + 1)}
            self.logger.log_metrics({f"edit/{name}": value for name, value in figures.items()}, number)

    @torch.no_grad()
    def guide(self, step: GuidanceStep) -> dict[str, float]:
        """Set the latents' gradient to the guidance of some views; of a sampler, set the latents themselves."""
        views, is_sampler = list(step.views), isinstance(self.method, Sampler)
        self._images, self.latents.grad = None, None if is_sampler else torch.zeros_like(self.latents)
        if not views:
            if step.number == 0:
                self._set(views, self.latents[views])  # takes those of the other processes
            return {}
        z_src = self._sources(views)
        weights = 1 if self.region is None else self.region.latents[views]
        if isinstance(self.method, Sampler):
            generators = [generator_for(self.seed, f"sampler/{view}") for view in views]
            change = self.method.edit(z_src, *self.prompts, generators) - z_src
            self._set(views, z_src + weights * self._finite_or(torch.zeros_like(change), change))
            return {}
        if step.number == 0:
            start = z_src if step.round == 0 else self._encoded(views)
            self._set(views, self._finite_or(self.latents[views], start))
        index = step.round * self.rounds.guidance_steps + step.number
        output = self.method(
            z_src,
            self.latents[views],
            *self.prompts,
            [generator_for(self.seed, f"guidance/{view}", index) for view in views],
            progress=index / (self.rounds.count * self.rounds.guidance_steps),
        )
        self.curves.add(output.trace)
        # Of several processes one has a gradient for a view, and what is taken is the mean over all.
        grad = output.grad.to(self.latents) * self.processes
        self.latents.grad[views] = weights * self._finite_or(torch.zeros_like(grad), grad)  # type: ignore[index]
        moved = (self.latents[views] - z_src).square().mean().sqrt()
        return {**output.figures, "moved": float(moved)}

    def _set(self, views: Sequence[int], latents: Tensor) -> None:
        """Set the latents of some views; with several processes, of those that each gives, in all."""
        self.latents[views] = latents
        if self.processes > 1:
            given = torch.zeros(len(self.latents), 1, 1, 1, device=self.device)
            given[views] = 1
            mine = torch.where(given > 0, self.latents, 0)
            mine, given = (self.trainer.strategy.reduce(part, reduce_op="sum") for part in (mine, given))
            self.latents.copy_(torch.where(given > 0, mine, self.latents))

    def _finite_or(self, otherwise: Tensor, views: Tensor) -> Tensor:
        """The numbers (b, c, h, w) of those views of which all are finite, and the others' from `otherwise`."""
        return torch.where(self.watch.finite(views)[:, None, None, None], views, otherwise)

    def _sources(self, views: Sequence[int]) -> Tensor:
        return torch.stack([self.sources.latent(view, self.cameras[view]) for view in views])

    def _encoded(self, views: Sequence[int]) -> Tensor:
        """The latents (b, c, h, w) of views of the field as it is now."""
        images = [self.renderer.render(self.cameras[view]).rgb.permute(2, 0, 1) for view in views]
        return self.prior.encode(torch.stack(images)).float()

    def fit(self, step: FitStep, adam: Any) -> dict[str, float]:
        """Make a step of fitting the field to the targets at random rays."""
        cfg = self.cfg
        faint = self._edited().faint(cfg.rays_per_step)
        for group, rate in zip(adam.param_groups, (cfg.lr_appearance, cfg.lr_density), strict=False):
            group.update(lr=rate * 0.1 ** (step.number / cfg.fit_steps), eps=faint)
        index = step.round * cfg.fit_steps + step.number
        generator = generator_for(self.seed, "fit", index)
        if not cfg.appearance_only:
            self.renderer.before_step(index, generator)  # the same in all processes
        if self.processes > 1:
            generator = generator_for(self.seed, "fit/rays", index * self.processes + self.global_rank)
        inside, outside = self._edited().pixels(cfg.rays_per_step, cfg.changed_rays, generator)
        adam.zero_grad()
        error = self._backward(inside, generator)
        if outside is not None:
            self._backward_where_reached(outside, generator, adam)
        adam.step()
        if step.number == cfg.fit_steps - 1:
            adam.state.clear()  # the next round's targets are others
        return {"fit_psnr": -10 * math.log10(error)}

    def _backward(self, pixels: Tensor, generator: torch.Generator) -> float:
        """Add the loss's gradients at pixels (n,), counted through all views. Returns the mean squared error."""
        cfg, cameras = self.cfg, self._all_cameras
        view, row, col = torch.unravel_index(pixels, (len(cameras), cameras.height, cameras.width))
        rays = cameras.rays_at(view, row, col)
        known = None if cfg.appearance_only else self.scene.train.opacity  # what is there is there
        with torch.no_grad():
            if cfg.source == "photo":
                at = view.cpu(), row.cpu(), col.cpu()
                base = self.scene.train.images[at].to(self.device)
                opacity = None if known is None else known[at].to(self.device)
            else:
                source = self.sources.renderer(rays)
                base, opacity = source.rgb, None if known is None else source.opacity
        kept, added = (part[view, row, col] for part in (self._edited().kept, self._edited().added))
        target = (kept * base + added).clamp(0, 1)
        behind = self.scene.bounds.background or BLACK
        if opacity is not None:
            opacity = edited_opacity(opacity, kept, target, behind)
        render = self.renderer(rays, generator)
        rgb, target = before_random_background(render, target, opacity, behind, generator)
        loss = F.l1_loss(rgb, target)  # where views disagree, what most of them say
        if cfg.distortion and not cfg.appearance_only:
            loss = loss + cfg.distortion / self.scene.bounds.length * render.distortion()
        self.manual_backward(loss)
        return float(F.mse_loss(rgb.detach(), target))

    def _backward_where_reached(self, pixels: Tensor, generator: torch.Generator, adam: Any) -> None:
        """Add gradients at pixels outside of the region, but only to what rays of the region have reached."""
        parameters = [p for group in adam.param_groups for p in group["params"] if p.grad is not None]
        reached = [p.grad != 0 for p in parameters]
        for parameter, now in zip(parameters, reached, strict=True):
            if state := adam.state.get(parameter):
                now |= state["exp_avg_sq"] != 0  # in an earlier step of the round
        self._backward(pixels, generator)
        for parameter, now in zip(parameters, reached, strict=True):
            parameter.grad *= now

    def _set_region(self, setting: str, region: Region | None) -> None:
        super()._set_region(setting, region)
        self._images = None

    @torch.no_grad()
    def _edited(self) -> EditedImages:
        """The views' edited images, at the images' own size."""
        if self._images is None:
            parts = []
            for batch in track(self.rounds.batches, "decoding the edits", unit="batch", delay=QUICK):
                views = list(batch)
                decoded = self.prior.decode(self._sources(views))
                change = self.prior.decode(self.latents[views]) - decoded
                change = self._finite_or(torch.zeros_like(change), change)
                parts.append(self._at_photographs(change.float(), decoded.float().nan_to_num(), views))
            change, faded, decoded = (torch.cat(part) for part in zip(*parts, strict=True))
            self._images = EditedImages.of(change, faded, decoded, self.region)
        return self._images

    def _at_photographs(
        self, change: Tensor, decoded: Tensor, views: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `EditedImages.of` takes, of images (b, 3, h, w) of views: as far as the prior asks along their edges."""
        photographs = self.scene.train.images[views].permute(0, 3, 1, 2).to(self.device)
        size = photographs.shape[2], photographs.shape[3]
        radius = round(self.prior.follow_edges(*self.texts) * self.prior.downsample)
        if radius:
            change = guided_filter(photographs, change, radius)
            return change, torch.zeros_like(change[:, :1]), enlarged(decoded, size)
        change = enlarged(change, size)
        return change, fading(change), enlarged(decoded, size)
