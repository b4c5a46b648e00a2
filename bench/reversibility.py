"""Can an edit be undone? Each picture is edited from source to target, and what came out from target to source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ids3d.bench.edits import Judges, Method, grouped
from ids3d.bench.images import signed, verdict
from ids3d.bench.store import Store
from ids3d.images import panel
from ids3d.metrics import edit_strength, psnr
from ids3d.models.priors.protocol import Prior
from ids3d.progress import track
from ids3d.report.page import Claim, Figure, Report, Table, stack_rows
from ids3d.report.stats import mean_interval, paired_difference
from ids3d.systems.edit_images.latents import EditImages
from ids3d.tasks import EditTask

METHODS = ("dds", "cds", "ids")
COLUMNS = {
    "psnr_back": "PSNR of there and back to the start, dB",
    "psnr_there": "PSNR of the edit to the start, dB",
    "undone": "share of the change that is undone",
    "strength": "share of the true change in the edit",
    "lpips_back": "LPIPS of there and back to the start",
    "psnr_round_trip": "PSNR of the autoencoder alone, twice, dB",
}


def study(
    prior: Prior,
    judges: Judges,
    tasks: Sequence[EditTask],
    methods: Sequence[Method],
    store: Store,
    seed: int,
    identity: Mapping[str, Any],
    command: str,
    batch: int = 8,
) -> Report:
    """A row for each method; IDS against each other one, paired; a gallery of start, there and back."""
    found: dict[str, list[dict[str, Any]]] = {}
    for method in methods:
        rows = found.setdefault(method.shown, [])
        for start in track(range(0, len(tasks), batch), f"there and back, {method.shown}", unit="batch"):
            part = tasks[start : start + batch]
            settings = {
                **identity,
                "method": method.name,
                "settings": dict(method.settings),
                "loop": [method.steps, method.lr],
                "tasks": [[t.name, t.source, t.target] for t in part],
                "seed": seed,
            }
            rows += store.get(
                "reversibility",
                settings,
                lambda part=part, method=method: _there_and_back(prior, judges, part, method, seed),  # type: ignore[misc]
            )
    report = Report(
        "Can an edit be undone?",
        command,
        f"{len(tasks)} pictures, edited from source to target and the outcome from target to source, with fresh noise.",
    )
    columns = [
        c for c in COLUMNS if any(math.isfinite(v) for rows in found.values() for v in _values(rows, c))
    ]
    report.tables.append(
        Table(
            "reversibility",
            tuple(COLUMNS[c] for c in columns),
            tuple(
                (label, tuple(mean_interval(_values(rows, c)) for c in columns))
                for label, rows in found.items()
            ),
            f"Means with bootstrapped 95 % intervals. {'LPIPS is ' + judges.lpips.name + '.' if judges.lpips else ''}",
        )
    )
    if "IDS" in found:
        report.claims += [_claim(found, other) for other in found if other != "IDS"]
    report.figures.append(_gallery(found, store, 6))
    return report


def _there_and_back(
    prior: Prior, judges: Judges, tasks: Sequence[EditTask], method: Method, seed: int
) -> list[dict[str, Any]]:
    """A record for each task. The way back starts from the picture that came out, as a user's would."""
    made: dict[str, dict[str, Any]] = {}
    for group in grouped(prior, tasks):
        loop = EditImages.Config(steps=method.steps, lr=method.lr)
        system = EditImages(loop, prior, method.build(prior), seed)
        source, target = prior.embed(group.source_captions), prior.embed(group.target_captions)
        names = group.names
        with torch.no_grad():
            start = group.sources.to(prior.device)
            there = prior.decode(system.edit(start, source, target, names))
            back = prior.decode(system.edit(there, target, source, [f"{name}/back" for name in names]))
            twice = prior.decode(prior.encode(prior.decode(prior.encode(start))))
        for i, name in enumerate(names):
            pictures = [x[i].permute(1, 2, 0).cpu() for x in (start, there, back, twice)]
            made[name] = {"name": name, **_figures(judges, group.truths[i], *pictures)}
            made[name] |= dict(zip(("start", "there", "back"), pictures, strict=False))
    return [made[task.name] for task in tasks]


def _figures(
    judges: Judges, truth: Tensor | None, start: Tensor, there: Tensor, back: Tensor, twice: Tensor
) -> dict[str, float]:
    """A picture's figures: those that are defined."""
    change = float((there - start).norm())
    figures = {
        "psnr_back": psnr(back, start),
        "psnr_there": psnr(there, start),
        "psnr_round_trip": psnr(twice, start),
        "undone": 1 - float((back - start).norm()) / change if change > 0 else math.nan,
    }
    if truth is not None:
        figures["strength"] = edit_strength(start, there, truth)
    if judges.lpips is not None:
        first = [x.permute(2, 0, 1)[None] for x in (back, start)]
        figures["lpips_back"] = float(judges.lpips(*first))
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _values(rows: Sequence[Mapping[str, Any]], figure: str) -> list[float]:
    return [float(row.get(figure, math.nan)) for row in rows]


def _claim(found: Mapping[str, Sequence[Mapping[str, Any]]], other: str) -> Claim:
    """Does IDS come back nearer to the start? With how far both went, since who goes nowhere comes back for nothing."""
    difference = paired_difference(_values(found["IDS"], "psnr_back"), _values(found[other], "psnr_back"))
    undone = paired_difference(_values(found["IDS"], "undone"), _values(found[other], "undone"))
    went = paired_difference(_values(found["IDS"], "strength"), _values(found[other], "strength"))
    also = f"; share of the true change on the way there: {signed(went)}" if went.n else ""
    return Claim(
        f"An edit by IDS can be undone better than one by {other}",
        verdict(difference),
        f"PSNR of there and back to the start, dB: {signed(difference)}; share undone: {signed(undone)}{also}",
    )


def _gallery(found: Mapping[str, Sequence[Mapping[str, Any]]], store: Store, count: int) -> Figure:
    """The first pictures: the start, and there and back by each method."""
    rows = []
    first = next(iter(found.values()))
    for index in range(min(count, len(first))):
        pictures = {"start": store.picture(first[index]["start"])}
        for label, records_ in found.items():
            pictures[f"{label}: there"] = store.picture(records_[index]["there"])
            pictures[f"{label}: back"] = store.picture(records_[index]["back"])
        rows.append(panel(pictures, height=96))
    return Figure("there-and-back", "The start, and by each method there and back.", stack_rows(rows))
