"""The report that an edit leaves: what was asked, what came out in figures and images, and how it was made."""

from __future__ import annotations

import csv
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import imageio.v3 as iio
import torch
from torch import Tensor

from ids3d.cli import launch_command
from ids3d.experiment import Job
from ids3d.images import difference
from ids3d.provenance import summary
from ids3d.report.page import Report, Table, View, format_cell
from ids3d.systems.evaluate.held_out import VIEWS
from ids3d.systems.settings_table import settings_of
from ids3d.systems.summary import Values, others, paired

SHOWN = 100
"""Edited images at most: a report of thousands would open slowly."""

SHORT = {
    "psnr": "PSNR",
    "psnr_inside": "inside the mask",
    "psnr_outside": "outside",
    "clip_score": "CLIP score",
}
"""What the figures of one picture are called, in the order in which they are named."""


def report_scene(job: Job, prompts: tuple[str, str], figures: Values) -> Path:
    """report.html in a scene's run: its figures, its film, and every held-out view before the edit beside after it."""
    report = _begun(f"“{prompts[0]}” to “{prompts[1]}”", figures)
    renders, film = job.folder / "renders", job.folder / "video.mp4"
    if film.exists():
        report.film = (film, "before the edit on the left, after it on the right")
    measured = _measured(job.folder / VIEWS)
    names = [path.name.removesuffix("_edited.png") for path in sorted(renders.glob("*_edited.png"))]
    for name in names:
        shown = {
            "before": renders / f"{name}_source.png",
            "after": renders / f"{name}_edited.png",
            "photograph": renders / f"{name}_photograph.png",
            "true edit": renders / f"{name}_true_edit.png",
            "difference": renders / f"{name}_difference.png",
        }
        depths = {"depth, near is light": renders / f"{name}_depths.png"}
        report.views.append(View(name, _pictures(shown), _pictures(depths), _note(measured.get(name, {}))))
    return _finished(report, job)


def report_images(job: Job, figures: Values, rows: Sequence[Mapping[str, float | str | None]]) -> Path:
    """report.html of edited images: the figures' means, and each image before the edit beside after it.

    Args:
        rows: of results.csv, one an image.
    """
    report = _begun("Edited images", figures)
    for row in rows[:SHOWN]:
        name, folder = str(row["name"]), job.folder / str(row["name"])
        shown = {
            "before": folder / "source.png",
            "after": folder / "edited.png",
            "true edit": folder / "true_edit.png",
        }
        pictures = _pictures(shown)
        images = dict(pictures)
        if {"before", "after"} <= images.keys():
            pictures += (("difference", difference(images["before"], images["after"])),)
        prompts = f"“{row['source']}” to “{row['target']}”; "
        values = {key: value for key, value in row.items() if isinstance(value, int | float)}
        report.views.append(View(name, pictures, note=prompts + _note(values)))
    if len(rows) > SHOWN:
        report.about = f"{SHOWN} of {len(rows)} are shown."
    return _finished(report, job)


def _begun(title: str, figures: Values) -> Report:
    report = Report(title, f"{launch_command()} {shlex.join(sys.argv[1:])}")
    before_after = tuple(paired(figures))
    if before_after:
        note = "Means. What needs the true edit is left out where it is not known."
        report.tables.append(Table("Before and after", ("before", "after"), before_after, note))
    rest = tuple((name, (value,)) for name, value in others(figures))
    report.tables.append(Table("Other figures", ("",), rest))
    return report


def _finished(report: Report, job: Job) -> Path:
    report.settings = settings_of(job)
    report.facts |= {**summary(), "settings": "config.yaml, beside this page", "seed": str(job.seed)}
    return report.write(job.folder, parts=False)


def _pictures(files: Mapping[str, Path]) -> tuple[tuple[str, Tensor], ...]:
    """Those of the files that are there."""
    return tuple(
        (label, torch.from_numpy(iio.imread(file)).float() / 255)
        for label, file in files.items()
        if file.exists()
    )


def _measured(file: Path) -> dict[str, dict[str, float]]:
    """The figures of each view, by its name; {} where the evaluation has left none."""
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as opened:
        return {
            row["view"]: {key: float(value) for key, value in row.items() if key != "view" and value}
            for row in csv.DictReader(opened)
        }


def _note(values: Mapping[str, float]) -> str:
    """What was measured of one picture, before the edit and after it."""
    parts = []
    for key, label in SHORT.items():
        before, after = (values.get(f"{side}/{key}") for side in ("source", "edit"))
        if before is not None:
            parts.append(
                f"{label} {format_cell(before)}" + ("" if after is None else f" → {format_cell(after)}")
            )
    return ", ".join(parts)
