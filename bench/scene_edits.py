"""Edit one scene by one method and measure it on the way: the unit of work of the study of scenes."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from ids3d.bench.edits import resize_mask
from ids3d.bench.image_metrics import ImageMetrics
from ids3d.bench.methods import Method
from ids3d.bench.scene_sources import SceneSource
from ids3d.bench.study import StudyContext
from ids3d.data.step_batches import StepDataModule
from ids3d.images import colour_depth, depth_range, resize
from ids3d.metrics import depth_error, view_consistency
from ids3d.models.priors.protocol import Prior, editing_size
from ids3d.models.renderers.protocol import Renderer
from ids3d.systems.edit_scene.protocol import SceneEdit
from ids3d.systems.fitting import fit
from ids3d.systems.resuming import ResumeCheckpoint
from ids3d.systems.scene_edit_phases import SceneEditRun


@dataclass
class SnapshotCallback(pl.Callback):
    """Measure the field at given steps of an edit.

    Attributes:
        due: (step, share of the steps) of the snapshots that are yet to come, in order.
        measure: returns the figures of the field as it is now.
        snapshots: the figures so far, each with its `share`.
    """

    due: list[tuple[int, float]]
    measure: Callable[[], dict[str, float]]
    snapshots: list[dict[str, float]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """Return what a stopped edit needs to go on: part of its checkpoint."""
        return {"due": self.due, "snapshots": self.snapshots}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.due, self.snapshots = list(state_dict["due"]), list(state_dict["snapshots"])

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        while self.due and trainer.global_step >= self.due[0][0]:
            self.snapshots.append({"share": self.due.pop(0)[1], **self.measure()})


def edit_scene(
    context: StudyContext,
    metrics: ImageMetrics,
    run: SceneEditRun,
    scene: SceneSource,
    method: Method,
    shares: Sequence[float],
    key: str,
) -> dict[str, Any]:
    """Reconstruct a scene, if that is not done yet, edit it by a method, and measure it on the way.

    Args:
        run: of the scene; its config says how it is edited.
        shares: of the steps, in (0, 1]: where it is measured.
        key: names this unit of work, and so the checkpoint that it leaves when it is stopped.

    Returns: the fields of an EditRecord, with images (h, w, 3) of the middle held-out view in place of their paths.
    """
    source = run.reconstruct().renderer
    edited = copy.deepcopy(source)
    prior = context.prior
    edit = SceneEdit(run.scene, source, prior, method.build(prior), run.prompts, context.seed)
    module = run.job.edit.build(edited, edit)
    steps = module.steps()
    views = HeldOutViews(run, source, metrics, prior)
    due = [(round(share * steps), share) for share in shares]
    snapshots = SnapshotCallback(due, lambda: views.figures(edited))
    unfinished = run.folder / f"{key}.ckpt"
    hint = "what is finished is kept: the same command goes on"
    resume = ResumeCheckpoint(run.stop, unfinished, key, hint, run.job.save_minutes)
    fit(
        module,
        StepDataModule(module.batch_of_step, held_out=1),
        steps,
        label=method.display_name,
        device=run.device,
        resume=resume,
        watch=edit.watch,
        callbacks=[snapshots],
    )
    seconds = resume.seconds
    resume.discard()
    edited.to(run.device)
    snapshots.snapshots[-1] |= views.geometry(edited)
    return {
        "name": scene.name,
        "kind": scene.kind,
        "captions": list(run.prompts),
        "seconds": seconds,
        "snapshots": snapshots.snapshots,
        **views.images(edited),
    }


class HeldOutViews:
    """The held-out views of a scene before its edit, at the size at which the prior edits.

    Args:
        run: of the scene.
        source: the renderer of the unedited field.
    """

    def __init__(self, run: SceneEditRun, source: Renderer, metrics: ImageMetrics, prior: Prior) -> None:
        scene = run.scene
        size = editing_size(scene.test.cameras.height, scene.test.cameras.width, prior)
        cameras = scene.test.cameras.resized(*size).to(run.device)
        self.cameras = [cameras[i] for i in range(len(cameras))]
        self.before = [source.render(camera) for camera in self.cameras]
        self.truths: list[Tensor | None] = [None] * len(cameras)
        self.masks: list[Tensor | None] = [None] * len(cameras)
        if scene.truth is not None:
            self.truths = [resize(image, size) for image in scene.truth.images]
            self.masks = [resize_mask(mask, size) for mask in scene.truth.masks]
        self.metrics, self.captions = metrics, run.prompts

    def figures(self, edited: Renderer) -> dict[str, float]:
        """Return the figures of ImageMetrics.measure, each averaged over the views in which it is defined."""
        each = []
        for i, camera in enumerate(self.cameras):
            before, after = self.before[i].rgb.cpu(), edited.render(camera).rgb.cpu()
            truth, mask = self.truths[i], self.masks[i]
            each.append(self.metrics.measure(before, after, self.captions, truth, mask))
        names = dict.fromkeys(name for figures in each for name in figures)
        return {n: statistics.fmean(f[n] for f in each if n in f) for n in names}

    def geometry(self, edited: Renderer) -> dict[str, float]:
        """Return `consistency`, how well neighbouring edited views agree (dB), and `depth_change`, if defined.

        The latter is how far the edit moved surfaces, relative to their depth.
        """
        after = [edited.render(camera) for camera in self.cameras]
        agreements, changes = [], []
        for i in range(len(after)):
            following = (i + 1) % len(after)
            if i != following:
                a, b = ((self.cameras[j], after[j].rgb, after[j].depth) for j in (i, following))
                agreements.append(view_consistency(a, b)[0])
            changes.append(depth_error(after[i].depth, self.before[i].depth)[1])
        figures = {}
        for name, values in (("consistency", agreements), ("depth_change", changes)):
            finite = [value for value in values if math.isfinite(value)]
            if finite:
                figures[name] = statistics.fmean(finite)
        return figures

    def images(self, edited: Renderer) -> dict[str, Tensor]:
        """Return images (h, w, 3) of the middle view: source, edited, truth, and both depths on one scale."""
        i = len(self.cameras) // 2
        after, before, truth = edited.render(self.cameras[i]), self.before[i], self.truths[i]
        near, far = depth_range([before.surface_depth, after.surface_depth])
        images = {
            "source": before.rgb.cpu(),
            "edited": after.rgb.cpu(),
            "source_depth": colour_depth(before.surface_depth, near, far).cpu(),
            "edited_depth": colour_depth(after.surface_depth, near, far).cpu(),
        }
        return images if truth is None else {**images, "truth": truth}
