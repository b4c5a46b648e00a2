"""Reconstruct a scene: fit a field to posed photographs by rendering random rays (NeRF, arXiv 2003.08934)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ids3d.config.bounds import STEPS, STEPS_OR_NONE, WEIGHT, check_bounds
from ids3d.errors import UserError
from ids3d.metrics import psnr
from ids3d.models.geometry.protocol import Smoothing
from ids3d.models.renderers.protocol import RayRender, Renderer
from ids3d.registry import register
from ids3d.scene import Scene
from ids3d.seeding import generator_for
from ids3d.systems.random_background import BLACK, before_random_background
from ids3d.systems.reconstruct.exposure import Exposure
from ids3d.systems.reconstruct.quality import evenly
from ids3d.systems.work import Work

NOTHING_SEEN = (
    "no ray of the first step meets anything that could be learned: renderer.alpha_threshold or "
    "renderer.occupancy_threshold leaves out what is as faint as the field is at first (geometry.initial_alpha), or "
    "no camera looks at the scene's box (data.near, data.far)"
)

SMOOTHED = 1_000_000
"""Up to how many training pixels the weights of the total variation are taken as they are."""


@register("reconstruct", "rays")
class Reconstruct(pl.LightningModule):
    """Minimises the squared error of random rays and the grid's total variation, with Adam, from coarse to fine.

    Args:
        cfg: settings.
        renderer: of the field to fit; trained in place.
        scene: its training views are fitted, its held-out views validated on.
        seed: with the step's number, determines the step's rays and jitter.
    """

    @dataclass
    class Config:
        steps: int = 1200  # steps of the optimiser, Adam
        rays_per_step: int = 2048  # rays a step, drawn at random from all training views
        lr_density: float = 0.2  # Adam's rate of the density, before its activation
        lr_appearance: float = 0.15  # Adam's rate of the colours
        lr_decay: float = 0.1  # share of both rates that is left at the last step; they fall exponentially
        # Weight of the mean squared differences between the grid's neighbours, in density. Where there are more than
        # 1,000,000 training pixels, the more there are, the less it is.
        tv_density: float = 1e-3
        tv_appearance: float = 3e-3  # the same, in colour
        # Weight of the rays' distortion (Barron et al. 2022), in units of the scene's depth, at the last step: against
        # haze, which explains the training views as well as surfaces do, and lets fewer samples be enough. It grows
        # with the square of the steps done, for early it draws surfaces out of what is still all haze, in front of
        # those that are there.
        distortion: float = 3e-3
        # Adam's rate of an affine map of each photograph's colours, where exposure or white balance differ from one to
        # the next; such as 5e-3. 0: none is learned.
        lr_exposure: float = 0.0
        # At these shares of the steps the grid is refined, to `finer` times as many voxels, ending with the geometry's
        # own number. Empty: it has that many from the start.
        refine_at: tuple[float, ...] = (0.2, 0.5)
        finer: float = 4.0  # how many times as many voxels the grid has after each refinement
        validate_every: int = 200  # steps between two looks at held-out views; 0 = never
        log_every: int = 20  # steps between two that are logged

        def __post_init__(self) -> None:
            check_bounds(
                self,
                steps=STEPS,
                rays_per_step="[1, 1e6]",
                lr_density="(0, 1000]",
                lr_appearance="(0, 1000]",
                lr_decay="(0, 1]",
                tv_density=WEIGHT,
                tv_appearance=WEIGHT,
                distortion=WEIGHT,
                lr_exposure="[0, 1000]",
                refine_at="(0, 1)",
                finer="[1, 1000]",
                validate_every=STEPS_OR_NONE,
                log_every=STEPS,
            )
            if list(self.refine_at) != sorted(set(self.refine_at)):
                raise ValueError(f"refine_at={list(self.refine_at)}: expected rising shares of the steps")

    def __init__(self, cfg: Config, renderer: Renderer, scene: Scene, seed: int) -> None:
        super().__init__()
        self.cfg, self.renderer, self.scene, self.seed = cfg, renderer, scene, seed
        self._train, self._test = scene.train, scene.test
        self._smoothing = min(1.0, SMOOTHED / scene.train.images[..., 0].numel())
        self.exposure = Exposure(len(scene.train)) if cfg.lr_exposure else None
        renderer.refine(self._resolution_at(0))

    def setup(self, stage: str) -> None:
        self._train, self._test = self.scene.train.to(self.device), self.scene.test.to(self.device)

    def _rates(self) -> list[float]:
        """Learning rates (density, appearance, exposure) of the step to come."""
        left = self.cfg.lr_decay ** (self.global_step / self.cfg.steps)
        return [rate * left for rate in (self.cfg.lr_density, self.cfg.lr_appearance, self.cfg.lr_exposure)]

    def _groups(self) -> list[list[nn.Parameter]]:
        """What is optimised at each of the rates; the last only where photographs have an exposure of their own."""
        field = self.renderer.parameter_groups()
        own = [] if self.exposure is None else [list(self.exposure.parameters())]
        return [field.density, [*field.appearance, *field.layout], *own]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            [{"params": parameters} for parameters in self._groups()],
            lr=self.cfg.lr_density,
            betas=(0.9, 0.99),
            eps=1e-15,
            fused=True,
        )

    def _resolution_at(self, step: int) -> float:
        """The share of its full resolution that the field has at a step."""
        to_come = sum(step < round(share * self.cfg.steps) for share in self.cfg.refine_at)
        return 1 / self.cfg.finer**to_come

    def steps(self) -> int:
        return self.cfg.steps

    def work(self) -> Work:
        """See `CountsWork`."""
        cfg, train, test = self.cfg, self.scene.train, self.scene.test
        looks = cfg.steps // cfg.validate_every if cfg.validate_every else 0
        return Work(
            f"{cfg.steps:,} steps of {cfg.rays_per_step:,} rays, from coarse to fine",
            trained_rays=cfg.steps * cfg.rays_per_step,
            rays_at_once=cfg.rays_per_step,
            rendered_rays=(looks + 1) * test.pixels + train.pixels * len(evenly(len(train))) // len(train),
        )

    def batch_of_step(self, index: int) -> torch.Generator:
        """What a step draws its rays from, and all else: each process from its own."""
        return generator_for(self.seed, "reconstruct", index)

    def _sample_rays(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """View, row and column (rays_per_step,) of random rays, each of any pixel of any training view."""
        cameras, n = self._train.cameras, self.cfg.rays_per_step
        view, row, col = (
            torch.randint(high, (n,), generator=generator).to(self.device)
            for high in (len(cameras), cameras.height, cameras.width)
        )
        return view, row, col

    def on_train_batch_start(self, generator: torch.Generator, batch_idx: int) -> None:
        adam = self.trainer.optimizers[0]
        if self.renderer.refine(self._resolution_at(self.global_step)):
            adam.state.clear()  # of the coarse field
        for group, parameters, rate in zip(adam.param_groups, self._groups(), self._rates(), strict=False):
            group["params"], group["lr"] = parameters, rate

    def training_step(self, generator: torch.Generator, batch_idx: int) -> Tensor:
        cfg = self.cfg
        several = self.trainer.world_size > 1  # processes, whose occupancy grids are to be the same
        common = generator_for(self.seed, "occupancy", self.global_step) if several else generator
        self.renderer.before_step(self.global_step, common)
        pixels = self._sample_rays(generator)
        render = self.renderer(self._train.cameras.rays_at(*pixels), generator)
        if self.global_step == 0 and not len(render.samples):
            raise UserError(NOTHING_SEEN)
        error = self._error(render, pixels, generator)
        loss = error
        if cfg.distortion:
            grown = ((self.global_step + 1) / cfg.steps) ** 2
            loss = loss + grown * cfg.distortion / self.scene.bounds.length * render.distortion()
        self.log("reconstruct/batch_psnr", -10 * error.detach().log10(), prog_bar=True)
        if self._is_logged():
            self.log("reconstruct/loss", loss.detach())
            self.log("reconstruct/samples_per_ray", len(render.samples) / cfg.rays_per_step)
        return loss

    def _is_logged(self) -> bool:
        """Whether this step is one that Lightning passes on to the log; telling it of others costs time for nothing."""
        return (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined, no-any-return]

    def on_after_backward(self) -> None:
        """Add the roughness's gradient: that of a slab, which in the loss would cost a pass over all of the grid."""
        share, cfg = self._smoothing, self.cfg
        weights = Smoothing(share * cfg.tv_density, share * cfg.tv_appearance)
        generator = generator_for(self.seed, "smooth", self.global_step)  # one slab for all processes
        rough = self.renderer.smooth(weights, generator)
        if self._is_logged():
            self.log("reconstruct/roughness", rough)

    def _error(
        self, render: RayRender, pixels: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
    ) -> Tensor:
        """Mean squared error of rays' colours: before random backgrounds, and of known pixels, where views say so."""
        train = self._train
        opacity = None if train.opacity is None else train.opacity[pixels]
        behind = self.scene.bounds.background
        if self.exposure is not None:
            render = replace(render, rgb=self._exposed(self.exposure, render, pixels[0]))
        rgb, target = before_random_background(render, train.images[pixels], opacity, behind, generator)
        if train.known is None:
            return F.mse_loss(rgb, target)
        known = train.known[pixels]
        return ((rgb - target).square().mean(dim=-1) * known).sum() / known.sum().clamp(min=1)

    def _exposed(self, exposure: Exposure, render: RayRender, view: Tensor) -> Tensor:
        """What rays show (n, 3), as their views' cameras were set. Behind what is cut out nothing was photographed."""
        if self._train.opacity is None:
            return exposure(render.rgb, torch.ones_like(render.opacity), view)
        background = render.rgb.new_tensor(self.scene.bounds.background or BLACK)
        behind = (1 - render.opacity)[:, None] * background
        return exposure(render.rgb - behind, render.opacity, view) + behind

    def validation_step(self, view: int, batch_idx: int) -> None:
        image, test = self.renderer.render(self._test.cameras[view]).rgb, self._test
        known = None if test.known is None else test.known[view]
        self.log("reconstruct/psnr", psnr(image, test.images[view], known), batch_size=1, prog_bar=True)
