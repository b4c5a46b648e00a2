"""What all ways to edit a scene share: settings, prompts, the sources' latents, and what is shown on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from ids3d.cameras import Cameras
from ids3d.images import colour_depth, depth_range, difference, panel, resize
from ids3d.metrics import psnr
from ids3d.models.priors.protocol import Prompt, editing_size
from ids3d.models.renderers.protocol import Render, Renderer
from ids3d.progress import QUICK, track
from ids3d.report.page import stack_rows
from ids3d.systems.edit_scene.curves import GuidanceCurves
from ids3d.systems.edit_scene.protocol import EditConfig, SceneEdit
from ids3d.systems.edit_scene.region import (
    DIFFERENCE,
    EVERYWHERE,
    Region,
    region_of_difference,
    region_of_masks,
)

PANELS_OF_REGION = 4


class EditingSystem(pl.LightningModule):
    """A LightningModule that edits a field in place. What inherits from it says what a step is.

    Args:
        cfg: settings.
        renderer: of the field to edit; trained in place.
        edit: what is to be edited, and by what.
    """

    samplers: ClassVar[bool] = False
    cfg: EditConfig

    def __init__(self, cfg: EditConfig, renderer: Renderer, edit: SceneEdit) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.cfg, self.renderer, self.scene, self.seed = cfg, renderer, edit.scene, edit.seed
        self.prior, self.tracking, self.watch = edit.prior, edit.tracking, edit.watch
        self.curves = GuidanceCurves()
        self.texts = source, target = edit.prompts
        self.prompts: tuple[Prompt, Prompt] = (self.prior.embed([source]), self.prior.embed([target]))
        cameras = self.scene.train.cameras
        self.size = editing_size(cameras.height, cameras.width, self.prior)
        self.cameras = cameras.resized(*self.size)
        self.sources = SourceLatents(cfg.source, edit, self.size)
        self._region_setting, self._region = cfg.region, self._region_of(cfg.region)

    def _region_of(self, setting: str) -> Region | None:
        """The region of a folder of masks; None of what is found, if at all, when it is first asked for."""
        if setting in (EVERYWHERE, DIFFERENCE):
            return None
        return region_of_masks(setting, self.scene, self.latent_size)

    def prepared_target(self, text: str) -> Callable[[], None]:
        """What makes `text` the target from now on; a region that is found is found anew."""
        target = self.prior.embed([text])

        def make() -> None:
            self.texts, self.prompts = (self.texts[0], text), (self.prompts[0], target)
            if self._region_setting == DIFFERENCE:
                self._set_region(DIFFERENCE, None)

        return make

    def prepared_region(self, setting: str) -> Callable[[], None]:
        """What makes `setting` (as in the config) the region from now on. Raises UserError as a config's does."""
        region = self._region_of(setting)
        return lambda: self._set_region(setting, None if region is None else region.to(self.device))

    def _set_region(self, setting: str, region: Region | None) -> None:
        self._region_setting, self._region = setting, region

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of a view's latent."""
        height, width = (side // self.prior.downsample for side in self.size)
        return height, width

    @property
    def region(self) -> Region | None:
        """Where the edit may act, made and shown when it is first asked for; None: everywhere."""
        if self._region_setting == DIFFERENCE and self._region is None:
            cameras, full = self.cameras, self.scene.train.cameras
            views = track(range(len(cameras)), "source views", delay=QUICK)
            z_src = torch.stack([self.sources.latent(view, cameras[view]) for view in views])
            size = (full.height, full.width)
            self._region = region_of_difference(self.prior, z_src, self.prompts, size, self.seed)
        return self._region

    @property
    def uncounted(self) -> tuple[str, ...]:
        """What of the work is not counted beforehand."""
        return ("finding the region",) if self._region_setting == DIFFERENCE else ()

    def setup(self, stage: str) -> None:
        self.cameras = self.cameras.to(self.device)
        self._region = None if self._region is None else self._region.to(self.device)
        if self.cfg.appearance_only:
            for parameter in self.renderer.parameter_groups().density:
                parameter.requires_grad_(False)

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
            step = self.global_step - 1  # of which these are the results, and the figures are logged as
            shown = comparison(self.sources.renderer.render(camera), edited).two_rows()
            self.tracking.log_panel(f"edit/{self.scene.test.names[view]}", shown, step)
            if view == 0 and self.region is not None:
                self.tracking.log_panel("edit/region", panel(self._region_shown(self.region)), step)

    def on_train_end(self) -> None:
        """Log the curves of the guidance."""
        if self.tracking is not None:
            for curve in self.curves.curves():
                self.tracking.log_curve(curve)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["guidance_curves"] = self.curves.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curves = GuidanceCurves(checkpoint.get("guidance_curves", ()))

    def _region_shown(self, region: Region) -> dict[str, Tensor]:
        """Some training views, dark where the edit may not act, by their names."""
        train = self.scene.train
        chosen = range(0, len(train), math.ceil(len(train) / PANELS_OF_REGION))
        return {
            train.names[i]: train.images[i] * (0.2 + 0.8 * region.images[i, ..., None].cpu()) for i in chosen
        }


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


@dataclass(frozen=True)
class Comparison:
    """A view before and after an edit.

    Attributes:
        images: (h, w, 3) in [0, 1], by their labels.
        depths: (near, far), the scale of both depth maps.
    """

    images: dict[str, Tensor]
    depths: tuple[float, float]

    def panel(self) -> Tensor:
        """All of it side by side (h, w, 3)."""
        return panel(self.images, depths=self.depths)

    def two_rows(self) -> Tensor:
        """The depth maps below the rest (h, w, 3): for a tracker's page, whose cards are narrow."""
        others = {label: image for label, image in self.images.items() if not label.endswith("depth")}
        return stack_rows([panel(others), self.depth_maps()])

    def depth_maps(self) -> Tensor:
        """Both depth maps and their scale side by side (h, w, 3)."""
        maps = {label: image for label, image in self.images.items() if label.endswith("depth")}
        return panel(maps, depths=self.depths)


def comparison(source: Render, edited: Render) -> Comparison:
    """Two renders of a view, their depths on one scale, and where they differ."""
    near, far = depth_range([source.surface_depth, edited.surface_depth])
    images = {
        "source": source.rgb,
        "edited": edited.rgb,
        "difference": difference(source.rgb, edited.rgb),
        "source depth": colour_depth(source.surface_depth, near, far),
        "edited depth": colour_depth(edited.surface_depth, near, far),
    }
    return Comparison(images, (near, far))
