"""Can an edit be undone? Each image is edited from source to target, and what came out from target to source."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ids3d.bench import options
from ids3d.bench.comparison import format_difference, verdict_on
from ids3d.bench.edits import batches_by_size, unit_settings
from ids3d.bench.image_metrics import ImageMetrics
from ids3d.bench.methods import Method
from ids3d.bench.store import Store
from ids3d.bench.study import Study, StudyContext, open_context
from ids3d.cli import ArgumentParser
from ids3d.images import panel
from ids3d.metrics import edit_strength, psnr
from ids3d.progress import track
from ids3d.report.page import Claim, Figure, Report, Table, stack_rows
from ids3d.report.stats import mean_interval, paired_difference
from ids3d.systems.edit_images.latents import EditImages
from ids3d.tasks import EditTask

METHODS = ("dds", "cds", "ids")
QUICK_EDITS, QUICK_STEPS = 4, 10
BATCH = 8  # images that are edited at once, at most
GALLERY_IMAGES = 6
COLUMNS = {
    "psnr_back": "PSNR of there and back to the start, dB",
    "psnr_there": "PSNR of the edit to the start, dB",
    "undone": "share of the change that is undone",
    "strength": "share of the true change in the edit",
    "lpips_back": "LPIPS of there and back to the start",
    "psnr_round_trip": "PSNR of the autoencoder alone, twice, dB",
}


@dataclass(frozen=True)
class RoundTrip:
    """An image edited there and back by one method, as the store keeps it.

    Attributes:
        figures: those of COLUMNS that are defined.
        start, there, back: images, as paths within the store.
    """

    name: str
    figures: Mapping[str, float]
    start: str
    there: str
    back: str


def study(
    context: StudyContext, metrics: ImageMetrics, tasks: Sequence[EditTask], methods: Sequence[Method]
) -> Report:
    """Report a row for each method; IDS against each other one, paired; a gallery of start, there and back."""
    trips: dict[str, list[RoundTrip]] = {}
    for method in methods:
        label = method.display_name
        of_method = trips.setdefault(label, [])
        for start in track(range(0, len(tasks), BATCH), f"there and back, {label}", unit="batch"):
            batch = tasks[start : start + BATCH]
            settings = unit_settings(context, method, batch)
            make = partial(_there_and_back, context, metrics, batch, method)
            of_method += [RoundTrip(**row) for row in context.store.get("reversibility", settings, make)]
    report = Report(
        "Can an edit be undone?",
        context.command,
        f"{len(tasks)} images, edited from source to target and the outcome from target to source, with fresh noise.",
    )
    report.tables.append(_table(trips, metrics.lpips.name))
    if "IDS" in trips:
        report.claims += [_claim(trips, other) for other in trips if other != "IDS"]
    report.figures.append(_gallery(trips, context.store))
    return report


def _table(trips: Mapping[str, Sequence[RoundTrip]], lpips_name: str) -> Table:
    columns = [
        column
        for column in COLUMNS
        if any(math.isfinite(v) for of_method in trips.values() for v in _values(of_method, column))
    ]
    rows = [
        (label, tuple(mean_interval(_values(of_method, column)) for column in columns))
        for label, of_method in trips.items()
    ]
    note = f"Means with bootstrapped 95 % intervals. LPIPS is {lpips_name}."
    return Table("reversibility", tuple(COLUMNS[column] for column in columns), tuple(rows), note)


def _there_and_back(
    context: StudyContext, metrics: ImageMetrics, tasks: Sequence[EditTask], method: Method
) -> list[dict[str, Any]]:
    """Edit images to the target, and what came out, decoded as a user would have it, back to the source.

    Returns: for each task the fields of a RoundTrip, with images (h, w, 3) in place of their paths.
    """
    prior = context.prior
    by_name: dict[str, dict[str, Any]] = {}
    for batch in batches_by_size(prior, tasks):
        loop = EditImages.Config(steps=method.steps, lr=method.lr)
        system = EditImages(loop, prior, method.build(prior), context.seed)
        source, target = prior.embed(batch.source_captions), prior.embed(batch.target_captions)
        names = batch.names
        with torch.no_grad():
            start = batch.sources.to(prior.device)
            there = prior.decode(system.edit(start, source, target, names).latents)
            back = prior.decode(
                system.edit(there, target, source, [f"{name}/back" for name in names]).latents
            )
            twice = prior.decode(prior.encode(prior.decode(prior.encode(start))))
        for i, name in enumerate(names):
            images = [x[i].permute(1, 2, 0).cpu() for x in (start, there, back, twice)]
            figures = _figures(metrics, batch.truths[i], *images)
            by_name[name] = {"name": name, "figures": figures}
            by_name[name] |= dict(zip(("start", "there", "back"), images, strict=False))
    return [by_name[task.name] for task in tasks]


def _figures(
    metrics: ImageMetrics, truth: Tensor | None, start: Tensor, there: Tensor, back: Tensor, twice: Tensor
) -> dict[str, float]:
    """Return an image's figures, those of COLUMNS that are defined; `twice` is the start through the autoencoder."""
    change = float((there - start).norm())
    figures = {
        "psnr_back": psnr(back, start),
        "psnr_there": psnr(there, start),
        "psnr_round_trip": psnr(twice, start),
        "undone": 1 - float((back - start).norm()) / change if change > 0 else math.nan,
    }
    if truth is not None:
        figures["strength"] = edit_strength(start, there, truth)
    back_first, start_first = (image.permute(2, 0, 1)[None] for image in (back, start))
    figures["lpips_back"] = float(metrics.lpips(back_first, start_first))
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _values(trips: Sequence[RoundTrip], figure: str) -> list[float]:
    return [float(trip.figures.get(figure, math.nan)) for trip in trips]


def _claim(trips: Mapping[str, Sequence[RoundTrip]], other: str) -> Claim:
    """Decide whether IDS comes back nearer to the start, and say how far both went: not to go brings one back too."""
    back, undone, went = (
        paired_difference(_values(trips["IDS"], figure), _values(trips[other], figure))
        for figure in ("psnr_back", "undone", "strength")
    )
    also = f"; share of the true change on the way there: {format_difference(went)}" if went.n else ""
    return Claim(
        f"An edit by IDS can be undone better than one by {other}",
        verdict_on(back),
        f"PSNR of there and back to the start, dB: {format_difference(back)}; "
        f"share undone: {format_difference(undone)}{also}",
    )


def _gallery(trips: Mapping[str, Sequence[RoundTrip]], store: Store) -> Figure:
    """Show the first images: the start, and there and back by each method."""
    rows = []
    first = next(iter(trips.values()))
    for index in range(min(GALLERY_IMAGES, len(first))):
        images = {"start": store.read_image(first[index].start)}
        for label, of_method in trips.items():
            images[f"{label}: there"] = store.read_image(of_method[index].there)
            images[f"{label}: back"] = store.read_image(of_method[index].back)
        rows.append(panel(images, height=96))
    return Figure("there-and-back", "The start, and by each method there and back.", stack_rows(rows))


def add_options(command: ArgumentParser) -> None:
    options.add_methods(command, METHODS)
    options.add_edits(command, 16)
    options.add_folder(command)
    options.add_steps(command)
    options.add_metrics(command)


def run(arguments: argparse.Namespace, command: str) -> Report:
    """Do what the arguments say. Raises UserError."""
    edits, steps = (QUICK_EDITS, QUICK_STEPS) if arguments.quick else (arguments.edits, arguments.steps)
    context = open_context(arguments, command, steps)
    tasks = options.edit_tasks(arguments, context.prior, edits)
    methods = options.build_methods(context, arguments)
    return study(context, options.load_metrics(arguments, context.prior), tasks, methods)


STUDY = Study("reversibility", "images edited there and back", add_options, run)
