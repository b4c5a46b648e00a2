"""Table 1: pictures edited by every method, where the true edit is known, and on a user's own pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ids3d.bench.report import Claim, Figure, Report, Table, Verdict, curves
from ids3d.bench.stats import Curve, Estimate, at_equal_strength, mean_interval, paired_difference
from ids3d.bench.store import Store
from ids3d.config import parse
from ids3d.metrics import (
    ClipScore,
    Lpips,
    changed_region_iou,
    directional_similarity,
    edit_strength,
    psnr,
    ssim,
)
from ids3d.pictures import panel
from ids3d.progress import track
from ids3d.registry import find
from ids3d.tasks import Picture, Task
from models.guidance.sampling import Sampler
from models.priors.prior import Prior, picture_size
from systems.edit_images import EditImages
from systems.run_images import fitted

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
        cls = find("guidance", self.name)
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
    tasks: Sequence[Task],
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


def edit_batch(
    prior: Prior, judges: Judges, batch: Sequence[Task], method: Method, seed: int, plan: Snapshots
) -> list[dict[str, Any]]:
    """Edits pictures, and measures them on the way; a record each. Those of one size are edited together."""
    ready = [(task, task.read()) for task in batch]
    made: dict[str, dict[str, Any]] = {}
    sizes = {t.name: picture_size(p.rgb.shape[0], p.rgb.shape[1], prior) for t, p in ready}
    for size in dict.fromkeys(sizes.values()):
        group = [(task, picture) for task, picture in ready if sizes[task.name] == size]
        made |= _edit_group(prior, judges, group, size, method, seed, plan)
    return [made[task.name] for task in batch]


def _edit_group(
    prior: Prior,
    judges: Judges,
    group: Sequence[tuple[Task, Picture]],
    size: tuple[int, int],
    method: Method,
    seed: int,
    plan: Snapshots,
) -> dict[str, dict[str, Any]]:
    guidance = method.build(prior)
    system = EditImages(EditImages.Config(steps=method.steps, lr=method.lr), prior, guidance, seed)
    sources = [fitted(picture.rgb, size) for _, picture in group]
    images = torch.stack([s.permute(2, 0, 1) for s in sources]).to(prior.device)
    prompts = [prior.embed([str(t.source if k == 0 else t.target) for t, _ in group]) for k in (0, 1)]
    kept: list[tuple[float, Tensor]] = []
    due = list(plan.shares[:-1]) if not isinstance(guidance, Sampler) else []

    def show(z: Tensor, done: float, figures: dict[str, float]) -> None:
        while due and done >= due[0] - 1e-9:
            kept.append((due.pop(0), z.clone()))

    start = time.monotonic()
    with torch.no_grad():
        final = system.edit(images, prompts[0], prompts[1], [t.name for t, _ in group], show)
        seconds = (time.monotonic() - start) / len(group)
        decoded = [(share, prior.decode(z).cpu()) for share, z in [*kept, (1.0, final)]]
    made: dict[str, dict[str, Any]] = {}
    for i, (task, picture) in enumerate(group):
        pictures = [(share, d[i].permute(1, 2, 0)) for share, d in decoded]
        made[task.name] = {
            "name": task.name,
            "kind": task.name.rpartition("-")[2] if task.world else "",
            "captions": [task.source, task.target],
            "seconds": seconds,
            "snapshots": [
                {"share": share, **measure(judges, task, picture, sources[i], p)} for share, p in pictures
            ],
            "source": sources[i],
            "edited": pictures[-1][1],
        }
        if picture.truth is not None:
            made[task.name]["truth"] = fitted(picture.truth, size)
    return made


def measure(judges: Judges, task: Task, picture: Picture, source: Tensor, edited: Tensor) -> dict[str, float]:
    """An edit's figures; those that need the truth or its mask are left out where they are not known."""
    size = (source.shape[0], source.shape[1])
    figures = {"psnr_to_source": psnr(edited, source), "ssim_to_source": ssim(edited, source)}
    mask = None if picture.mask is None else fitted(picture.mask[..., None].float(), size)[..., 0] > 0
    if picture.truth is not None:
        truth = fitted(picture.truth, size)
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
        captions = (str(task.source), str(task.target))
        figures["clip_score"] = float(judges.clip(edited.permute(2, 0, 1)[None], [captions[1]]))
        figures["clip_direction"] = directional_similarity(judges.clip, source, edited, captions)
    return {name: value for name, value in figures.items() if math.isfinite(value)}


COLUMNS = {
    "psnr": "PSNR to the true edit, dB",
    "psnr_inside": "inside its mask",
    "psnr_outside": "PSNR outside the mask, dB",
    "lpips_outside": "LPIPS to the source outside the mask",
    "lpips_to_source": "LPIPS to the source",
    "psnr_to_source": "PSNR to the source, dB",
    "strength": "share of the true change",
    "iou": "IoU of the change",
    "clip_score": "CLIP score of the target",
    "clip_direction": "directional CLIP similarity",
}


def final(rows: Sequence[Mapping[str, Any]], figure: str) -> list[float]:
    """A figure of the finished edits; nan where it is not defined."""
    return [float(row["snapshots"][-1].get(figure, math.nan)) for row in rows]


def summary(found: Mapping[str, Sequence[Mapping[str, Any]]], lpips: str) -> Table:
    """A row for each method; only columns that are defined for some."""
    columns = [c for c in COLUMNS if any(math.isfinite(v) for rows in found.values() for v in final(rows, c))]
    rows: list[tuple[str, tuple[Estimate | float | str, ...]]] = []
    for label, records_ in found.items():
        cells = tuple(mean_interval(final(records_, column)) for column in columns)
        rows.append((label, (*cells, mean_interval([float(r["seconds"]) for r in records_]))))
    n = max((len(rows_) for rows_ in found.values()), default=0)
    left_out = [] if "psnr" in columns else ["No true edit is known: the columns that need one are left out."]
    note = " ".join(
        [
            f"Means over {n} edits with bootstrapped 95 % intervals.",
            f"LPIPS is {lpips}." if lpips else "",
            *left_out,
        ]
    )
    return Table("images", (*(COLUMNS[c] for c in columns), "seconds per edit"), tuple(rows), note)


def curve(row: Mapping[str, Any], strength: str, identity: str) -> Curve:
    """How an edit went on; nothing done, and everything kept, is where it began."""
    points = [(s.get(strength, math.nan), s.get(identity, math.nan)) for s in row["snapshots"]]
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    return Curve(tuple(x for x, _ in points), tuple(y for _, y in points))


def identity_claim(
    found: Mapping[str, Sequence[Mapping[str, Any]]], other: str, strength: str, identity: str, unit: str
) -> Claim:
    """Does IDS keep identity better than another method where both have gone equally far?"""
    pairs = zip(found["IDS"], found[other], strict=True)
    gains = [at_equal_strength(curve(a, strength, identity), curve(b, strength, identity)) for a, b in pairs]
    estimate = mean_interval(gains)
    end = paired_difference(final(found["IDS"], identity), final(found[other], identity))
    evidence = (
        f"{unit} at equal strength: {_signed(estimate)}, over {estimate.n} edits that both take as far; "
        f"at the end of each: {_signed(end)}"
    )
    return Claim(
        f"IDS keeps identity better than {other} at equal edit strength", verdict(estimate), evidence
    )


def verdict(estimate: Estimate) -> Verdict:
    """Whether a difference that is claimed to be above zero is."""
    return {1: "holds", -1: "does not hold", 0: "not decided"}[estimate.sign]  # type: ignore[return-value]


def _signed(e: Estimate) -> str:
    return f"{e.mean:+.2f} ({e.low:+.2f} to {e.high:+.2f})"


def study(
    prior: Prior,
    judges: Judges,
    tasks: Sequence[Task],
    methods: Sequence[Method],
    store: Store,
    seed: int,
    identity: Mapping[str, Any],
    command: str,
    plan: Snapshots | None = None,
) -> Report:
    """Edits, table, claims, curves and a gallery."""
    found = records(prior, judges, tasks, methods, store, seed, identity, plan or Snapshots())
    known = any(math.isfinite(v) for rows in found.values() for v in final(rows, "psnr"))
    strength, kept, unit = (
        ("strength", "psnr_outside", "PSNR outside the mask, dB")
        if known
        else ("clip_direction", "psnr_to_source", "PSNR to the source, dB")
    )
    report = Report("Editing pictures", command, f"{len(tasks)} edits by {', '.join(found)}.")
    report.tables.append(summary(found, judges.lpips.name if judges.lpips else ""))
    if "IDS" in found:
        for other in ("DDS", "CDS"):
            if other in found:
                report.claims.append(identity_claim(found, other, strength, kept, unit))
    report.figures.append(tradeoff(found, strength, kept, unit))
    report.figures.append(gallery(found, store, 8))
    return report


def tradeoff(found: Mapping[str, Sequence[Mapping[str, Any]]], strength: str, kept: str, unit: str) -> Figure:
    """Identity against strength, means over the edits at each snapshot."""
    lines, points = [], []
    for label, rows in found.items():
        shares = [s["share"] for s in rows[0]["snapshots"]]
        means = [
            [
                mean_interval([r["snapshots"][i].get(f, math.nan) for r in rows]).mean
                for i in range(len(shares))
            ]
            for f in (strength, kept)
        ]
        if len(shares) > 1:
            lines.append((label, means[0], means[1]))
        else:
            points.append((label, means[0][0], means[1][0]))
    axes = ("share of the true change" if strength == "strength" else "directional CLIP similarity", unit)
    return Figure(
        "identity-against-strength",
        "Identity against edit strength, as the edits go on (means over all edits): up and to the right is better.",
        curves("identity against strength", axes, lines, points),
    )


def gallery(found: Mapping[str, Sequence[Mapping[str, Any]]], store: Store, count: int) -> Figure:
    """Some edits, spread over all: source, truth and each method's."""
    first = next(iter(found.values()))
    chosen = [
        round(i * (len(first) - 1) / max(1, min(count, len(first)) - 1))
        for i in range(min(count, len(first)))
    ]
    rows = []
    for index in dict.fromkeys(chosen):
        known = {key: store.picture(first[index][key]) for key in ("source", "truth") if key in first[index]}
        edits = {label: store.picture(rows_[index]["edited"]) for label, rows_ in found.items()}
        rows.append(panel({**known, **edits}, height=96))
    width = max(row.shape[1] for row in rows)
    padded = [torch.nn.functional.pad(row, (0, 0, 0, width - row.shape[1]), value=1.0) for row in rows]
    captions = "; ".join(
        f"“{first[i]['captions'][0]}” to “{first[i]['captions'][1]}”" for i in dict.fromkeys(chosen)
    )
    return Figure("gallery", f"From top to bottom: {captions}.", torch.cat(padded))
