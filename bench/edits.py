"""Edit images by a method and measure them on the way: the unit of work of the studies of images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ids3d.bench.image_metrics import ImageMetrics
from ids3d.bench.methods import Method
from ids3d.bench.study import StudyContext
from ids3d.images import resize
from ids3d.models.priors.protocol import Prior, editing_size
from ids3d.models.samplers.protocol import Sampler
from ids3d.progress import track
from ids3d.systems.edit_images.latents import EditImages
from ids3d.tasks import EditTask, SourceImage


@dataclass(frozen=True)
class EditRecord:
    """An edit of an image or a scene by one method, as the store keeps it.

    Attributes:
        name: of the image or scene.
        kind: of edit, in the tabletop world; "" elsewhere.
        captions: (source, target).
        seconds: what the edit took.
        snapshots: figures on the way, the last of the finished edit: `share`, in (0, 1], of the steps that are done,
            and those of ImageMetrics.measure that are defined.
        source, edited, truth, source_depth, edited_depth: images, as paths within the store; "" if there is none.
    """

    name: str
    kind: str
    captions: Sequence[str]
    seconds: float
    snapshots: Sequence[Mapping[str, float]]
    source: str
    edited: str
    truth: str = ""
    source_depth: str = ""
    edited_depth: str = ""


@dataclass(frozen=True)
class SnapshotConfig:
    """How images are edited and measured.

    Attributes:
        shares: of the steps, in (0, 1]: where an edit is measured; the last is 1.
        batch: images that are edited at once, at most.
    """

    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
    batch: int = 8


@dataclass(frozen=True)
class ImageBatch:
    """Images of one size, to be edited together.

    Attributes:
        tasks: b of them.
        sources: (b, 3, h, w) in [0, 1].
        truths: the true edits, b of (h, w, 3) in [0, 1]; None where they are not known.
        masks: what they touch, b of (h, w) bool; None where it is not known.
    """

    tasks: tuple[EditTask, ...]
    sources: Tensor
    truths: tuple[Tensor | None, ...]
    masks: tuple[Tensor | None, ...]

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    @property
    def source_captions(self) -> list[str]:
        return [str(task.source) for task in self.tasks]

    @property
    def target_captions(self) -> list[str]:
        return [str(task.target) for task in self.tasks]


def run_edits(
    context: StudyContext,
    metrics: ImageMetrics,
    tasks: Sequence[EditTask],
    methods: Sequence[Method],
    config: SnapshotConfig,
) -> dict[str, list[EditRecord]]:
    """Return each method's records of all tasks, in order, by the method's display name.

    A unit of work is a batch of one method. Batches hold the same tasks for all methods, and before and after an
    interruption: rounding depends on what an image is edited together with.
    """
    records: dict[str, list[EditRecord]] = {}
    for method in methods:
        edits = records.setdefault(method.display_name, [])
        starts = range(0, len(tasks), config.batch)
        for start in track(starts, f"images, {method.display_name}", unit="batch"):
            batch = tasks[start : start + config.batch]
            settings = {**unit_settings(context, method, batch), "shares": list(config.shares)}
            make = partial(edit_batch, context, metrics, batch, method, config)
            edits += [EditRecord(**row) for row in context.store.get("images", settings, make)]
    return records


def unit_settings(context: StudyContext, method: Method, tasks: Sequence[EditTask]) -> dict[str, Any]:
    """Return what names the results of a method on some tasks, as JSON values."""
    return {
        **context.identity,
        "method": method.identity,
        "tasks": [[task.name, task.source, task.target] for task in tasks],
        "seed": context.seed,
    }


def batches_by_size(prior: Prior, tasks: Sequence[EditTask]) -> list[ImageBatch]:
    """Read the tasks' images and bring each to the size at which it is edited; a batch for each size.

    Raises UserError for an image that cannot be read.
    """
    by_size: dict[tuple[int, int], list[EditTask]] = {}
    images: dict[str, SourceImage] = {}
    for task in tasks:
        images[task.name] = image = task.read()
        size = editing_size(image.rgb.shape[0], image.rgb.shape[1], prior)
        by_size.setdefault(size, []).append(task)
    batches = []
    for size, of_size in by_size.items():
        sources = [resize(images[task.name].rgb, size).permute(2, 0, 1) for task in of_size]
        truths = [images[task.name].truth for task in of_size]
        masks = [images[task.name].mask for task in of_size]
        batches.append(
            ImageBatch(
                tuple(of_size),
                torch.stack(sources),
                tuple(None if truth is None else resize(truth, size) for truth in truths),
                tuple(None if mask is None else resize_mask(mask, size) for mask in masks),
            )
        )
    return batches


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a mask (h, w) bool at `size` (height, width): True where any of it was."""
    return resize(mask[..., None].float(), size)[..., 0] > 0


def edit_batch(
    context: StudyContext,
    metrics: ImageMetrics,
    tasks: Sequence[EditTask],
    method: Method,
    config: SnapshotConfig,
) -> list[dict[str, Any]]:
    """Edit images, those of one size together, and measure them on the way.

    Returns: for each task the fields of an EditRecord, with images (h, w, 3) in place of their paths.
    """
    by_name: dict[str, dict[str, Any]] = {}
    for batch in batches_by_size(context.prior, tasks):
        decoded, seconds = _edit(context, batch, method, config.shares)
        for i, task in enumerate(batch.tasks):
            source, truth, mask = batch.sources[i].permute(1, 2, 0), batch.truths[i], batch.masks[i]
            captions = (batch.source_captions[i], batch.target_captions[i])
            images = [(share, batch_at_share[i].permute(1, 2, 0)) for share, batch_at_share in decoded]
            by_name[task.name] = {
                "name": task.name,
                "kind": task.name.rpartition("-")[2] if task.world else "",
                "captions": list(captions),
                "seconds": seconds,
                "snapshots": [
                    {"share": share, **metrics.measure(source, image, captions, truth, mask)}
                    for share, image in images
                ],
                "source": source,
                "edited": images[-1][1],
            }
            if truth is not None:
                by_name[task.name]["truth"] = truth
    return [by_name[task.name] for task in tasks]


def _edit(
    context: StudyContext, batch: ImageBatch, method: Method, shares: Sequence[float]
) -> tuple[list[tuple[float, Tensor]], float]:
    """Return (share, images (b, 3, h, w)) at each of the shares, a sampler's at 1 only, and the seconds per image."""
    prior, guidance = context.prior, method.build(context.prior)
    system = EditImages(EditImages.Config(steps=method.steps, lr=method.lr), prior, guidance, context.seed)
    source, target = prior.embed(batch.source_captions), prior.embed(batch.target_captions)
    kept: list[tuple[float, Tensor]] = []
    due: list[float] = [] if isinstance(guidance, Sampler) else list(shares[:-1])

    def keep(z: Tensor, done: float, figures: dict[str, float]) -> None:
        while due and done >= due[0] - 1e-9:
            kept.append((due.pop(0), z.clone()))

    start = time.monotonic()
    with torch.no_grad():
        final = system.edit(batch.sources.to(prior.device), source, target, batch.names, keep)
        seconds = (time.monotonic() - start) / len(batch.tasks)
        return [(share, prior.decode(z).cpu()) for share, z in [*kept, (1.0, final.latents)]], seconds
