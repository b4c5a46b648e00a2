"""Pictures edited by a method and measured on the way: the unit of work of the studies of pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ids3d.bench.store import Store
from ids3d.config import parse
from ids3d.images import resize
from ids3d.metrics import (
    ClipScore,
    Lpips,
    changed_region_iou,
    directional_similarity,
    edit_strength,
    psnr,
    ssim,
)
from ids3d.models.priors.protocol import Prior, editing_size
from ids3d.models.samplers.protocol import Sampler
from ids3d.progress import track
from ids3d.registry import find_among
from ids3d.systems.edit_images.latents import EditImages
from ids3d.tasks import EditTask, SourceImage

LABELS = {name: name.upper() for name in ("sds", "dds", "cds", "pds", "ids", "p2p")} | {
    "pnp": "PnP",
    "sdedit": "SDEdit",
}
METHODS = tuple(LABELS)


@dataclass(frozen=True)
class Method:
    """A method by its name in the config, with settings that differ from its defaults, and the step of its loop."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 200
    lr: float = 0.0488
    label: str = ""

    @property
    def shown(self) -> str:
        return self.label or LABELS.get(self.name, self.name)

    def build(self, prior: Prior) -> Any:
        """The method on a prior. Raises UserError for a name or a setting that there is not."""
        _, cls = find_among(("guidance", "sampler"), self.name)
        return cls(parse(cls.Config, dict(self.settings), f"guidance ({self.name})"), prior)


@dataclass(frozen=True)
class Judges:
    """What measures an edit beside the truth."""

    clip: ClipScore | None
    lpips: Lpips | None


@dataclass(frozen=True)
class Snapshots:
    """Of how many edits at once, and where on the way, an edit is measured."""

    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
    batch: int = 8


def records(
    prior: Prior,
    judges: Judges,
    tasks: Sequence[EditTask],
    methods: Sequence[Method],
    store: Store,
    seed: int,
    identity: Mapping[str, Any],
    plan: Snapshots,
) -> dict[str, list[dict[str, Any]]]:
    """Each method's records of all tasks, in order, by the method's label.

    A unit of work is a batch of one method; batches are of the same tasks for all methods, and before and after an
    interruption, so that a picture is always edited in the same company.

    Args:
        identity: what else determines the results: the prior, and where the tasks come from.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for method in methods:
        rows = found.setdefault(method.shown, [])
        starts = range(0, len(tasks), plan.batch)
        for start in track(starts, f"images, {method.shown}", unit="batch"):
            batch = tasks[start : start + plan.batch]
            settings = {
                **identity,
                "method": method.name,
                "settings": dict(method.settings),
                "loop": [method.steps, method.lr],
                "shares": list(plan.shares),
                "tasks": [[t.name, t.source, t.target] for t in batch],
                "seed": seed,
            }
            rows += store.get(
                "images",
                settings,
                lambda batch=batch, method=method: edit_batch(prior, judges, batch, method, seed, plan),  # type: ignore[misc]
            )
    return found


@dataclass(frozen=True)
class Group:
    """Pictures that are edited at one size, together.

    sources: (b, 3, h, w) in [0, 1].
    truths, masks: the true edits (h, w, 3) and what they touch (h, w) bool; None where they are not known.
    """

    items: tuple[tuple[EditTask, SourceImage], ...]
    sources: Tensor
    truths: tuple[Tensor | None, ...]
    masks: tuple[Tensor | None, ...]

    @property
    def names(self) -> list[str]:
        return [task.name for task, _ in self.items]

    @property
    def source_captions(self) -> list[str]:
        return [str(task.source) for task, _ in self.items]

    @property
    def target_captions(self) -> list[str]:
        return [str(task.target) for task, _ in self.items]


def grouped(prior: Prior, tasks: Sequence[EditTask]) -> list[Group]:
    """The tasks' pictures, read and brought to the size at which they are edited. Raises UserError."""
    sizes: dict[tuple[int, int], list[tuple[EditTask, SourceImage]]] = {}
    for task in tasks:
        picture = task.read()
        size = editing_size(picture.rgb.shape[0], picture.rgb.shape[1], prior)
        sizes.setdefault(size, []).append((task, picture))
    return [
        Group(
            tuple(items),
            torch.stack([resize(picture.rgb, size).permute(2, 0, 1) for _, picture in items]),
            tuple(None if p.truth is None else resize(p.truth, size) for _, p in items),
            tuple(
                None if p.mask is None else resize(p.mask[..., None].float(), size)[..., 0] > 0
                for _, p in items
            ),
        )
        for size, items in sizes.items()
    ]


def edit_batch(
    prior: Prior, judges: Judges, batch: Sequence[EditTask], method: Method, seed: int, plan: Snapshots
) -> list[dict[str, Any]]:
    """Edits pictures, and measures them on the way; a record each. Those of one size are edited together."""
    made: dict[str, dict[str, Any]] = {}
    for group in grouped(prior, batch):
        made |= _edit_group(prior, judges, group, method, seed, plan)
    return [made[task.name] for task in batch]


def _edit_group(
    prior: Prior, judges: Judges, group: Group, method: Method, seed: int, plan: Snapshots
) -> dict[str, dict[str, Any]]:
    guidance = method.build(prior)
    system = EditImages(EditImages.Config(steps=method.steps, lr=method.lr), prior, guidance, seed)
    source, target = prior.embed(group.source_captions), prior.embed(group.target_captions)
    kept: list[tuple[float, Tensor]] = []
    due = list(plan.shares[:-1]) if not isinstance(guidance, Sampler) else []

    def show(z: Tensor, done: float, figures: dict[str, float]) -> None:
        while due and done >= due[0] - 1e-9:
            kept.append((due.pop(0), z.clone()))

    start = time.monotonic()
    with torch.no_grad():
        final = system.edit(group.sources.to(prior.device), source, target, group.names, show)
        seconds = (time.monotonic() - start) / len(group.items)
        decoded = [(share, prior.decode(z).cpu()) for share, z in [*kept, (1.0, final)]]
    made: dict[str, dict[str, Any]] = {}
    for i, (task, _) in enumerate(group.items):
        before, truth, mask = group.sources[i].permute(1, 2, 0), group.truths[i], group.masks[i]
        captions = (group.source_captions[i], group.target_captions[i])
        pictures = [(share, d[i].permute(1, 2, 0)) for share, d in decoded]
        made[task.name] = {
            "name": task.name,
            "kind": task.name.rpartition("-")[2] if task.world else "",
            "captions": list(captions),
            "seconds": seconds,
            "snapshots": [
                {"share": share, **measure(judges, captions, truth, mask, before, p)} for share, p in pictures
            ],
            "source": before,
            "edited": pictures[-1][1],
        }
        if truth is not None:
            made[task.name]["truth"] = truth
    return made


def measure(
    judges: Judges,
    captions: tuple[str, str],
    truth: Tensor | None,
    mask: Tensor | None,
    source: Tensor,
    edited: Tensor,
) -> dict[str, float]:
    """An edit's figures: those that are defined. What needs the truth or its mask is left out without it.

    Args:
        captions: (source, target).
        truth, source, edited: (h, w, 3) in [0, 1].
        mask: (h, w) bool, what the true edit touches.
    """
    figures = {"psnr_to_source": psnr(edited, source), "ssim_to_source": ssim(edited, source)}
    if truth is not None:
        figures |= {"psnr": psnr(edited, truth), "strength": edit_strength(source, edited, truth, mask)}
        if mask is not None:
            figures |= {
                "psnr_inside": psnr(edited, truth, mask),
                "psnr_outside": psnr(edited, truth, ~mask),
                "iou": changed_region_iou(source, edited, mask),
            }
    first = (x.permute(2, 0, 1)[None] for x in (edited, source))
    if judges.lpips is not None:
        outside = None if mask is None else ~mask[None]
        a, b = first
        figures["lpips_to_source"] = float(judges.lpips(a, b))
        if outside is not None:
            figures["lpips_outside"] = float(judges.lpips(a, b, outside))
    if judges.clip is not None:
        figures["clip_score"] = float(judges.clip(edited.permute(2, 0, 1)[None], [captions[1]]))
        figures["clip_direction"] = directional_similarity(judges.clip, source, edited, captions)
    return {name: value for name, value in figures.items() if math.isfinite(value)}
