"""The report that an edit leaves: what was asked, what came out in figures and images, and how it was made."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import imageio.v3 as iio
import torch

from ids3d.experiment import Job
from ids3d.provenance import summary
from ids3d.report.page import Figure, Report, Table

SHOWN = 8
"""Images at most: a report of a thousand would open slowly."""


def report_scene(job: Job, prompts: tuple[str, str], figures: Mapping[str, float | str | None]) -> Path:
    """report.html in a scene's run: its figures, before and after, and its panels of held-out views."""
    panels = sorted((job.folder / "renders").glob("*_panel.png"))
    return _write(job, f"“{prompts[0]}” to “{prompts[1]}”", figures, panels)


def report_images(job: Job, figures: Mapping[str, float | str | None], names: Sequence[str]) -> Path:
    """report.html of edited images: the figures' means, and source, edit and difference of each."""
    comparisons = [job.folder / name / "comparison.png" for name in names]
    return _write(job, "Edited images", figures, [c for c in comparisons if c.exists()])


def _write(job: Job, title: str, figures: Mapping[str, float | str | None], panels: Sequence[Path]) -> Path:
    report = Report(title, shlex.join(["python", *sys.argv]))
    before_after = [
        (label, (_number(figures.get(f"source/{key}")), _number(figures.get(f"edit/{key}"))))
        for key, label in PAIRED.items()
        if f"edit/{key}" in figures
    ]
    if before_after:
        note = "Means. What needs the true edit is left out where it is not known."
        report.tables.append(Table("before and after", ("before", "after"), tuple(before_after), note))
    paired = {f"{side}/{key}" for side in ("source", "edit") for key in PAIRED}
    others = [(name, (_number(value),)) for name, value in figures.items() if name not in paired]
    report.tables.append(Table("other figures", ("value",), tuple(others)))
    for panel in panels[:SHOWN]:
        image = torch.from_numpy(iio.imread(panel)).float() / 255
        name = panel.stem.removesuffix("_panel") if panel.stem != "comparison" else panel.parent.name
        report.figures.append(Figure(name, name, image))
    if len(panels) > SHOWN:
        report.about = f"{SHOWN} of {len(panels)} are shown."
    report.facts |= {**summary(), "settings": "config.yaml, beside this page", "seed": str(job.seed)}
    return report.write(job.folder, parts=False)


def _number(value: float | str | None) -> float | str:
    return "–" if value is None else value
