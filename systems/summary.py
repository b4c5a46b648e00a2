"""What a run ends with: its figures, where everything lies, and what can be done with it, in one table."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Mapping

from ids3d.cli import launch_command
from ids3d.experiment import Job, SceneJob
from ids3d.report.page import format_cell
from ids3d.screen import Figures, Line, show_figures, show_lines

log = logging.getLogger(__name__)

Values = Mapping[str, float | str | None]

PAIRED = {
    "psnr": "PSNR to the photograph or true edit, dB",
    "psnr_inside": "PSNR to the true edit inside its mask, dB",
    "psnr_outside": "PSNR to the true edit outside its mask, dB",
    "clip_score": "CLIP score of the target",
}
"""What is measured before an edit and after it, by its name in metrics.json."""


ALONE = {
    "reconstruction/psnr": "PSNR of the reconstruction, dB",
    "reconstruction/psnr_training": "the same over some of the photographs it is fitted to, dB",
    "reconstruction/depth_error": "its depth's mean error, as a share of the scene's size",
    "reconstruction/seconds": "seconds of reconstructing",
    "reconstruction/skipped_steps": "of its steps left out, not being finite",
    "edit/seconds": "seconds of editing",
    "edit/skipped_steps": "of its steps left out, not being finite",
    "edit/clip_improved": "share of the views whose CLIP score rose",
    "time/total_seconds": "seconds in all",
    "memory/peak_gb": "most memory, GB",
    "memory/peak_cuda_gb": "most memory on the GPU, GB",
}
"""What is measured once, by its name in metrics.json."""


def paired(figures: Values) -> list[tuple[str, tuple[float | str, float | str]]]:
    """The figures that there are before the edit and after it, a row each; "–" for what is not known."""
    return [
        (label, (_known(figures.get(f"source/{key}")), _known(figures.get(f"edit/{key}"))))
        for key, label in PAIRED.items()
        if f"edit/{key}" in figures or f"source/{key}" in figures
    ]


def others(figures: Values) -> list[tuple[str, str]]:
    """The other figures; those without a label by their names in metrics.json."""
    known = {f"{side}/{key}" for side in ("source", "edit") for key in PAIRED}
    rest = ((name, _known(value)) for name, value in figures.items() if name not in known)
    return [
        (ALONE.get(name, name), value if isinstance(value, str) else f"{value:.4g}") for name, value in rest
    ]


def _known(value: float | str | None) -> float | str:
    return "–" if value is None else value


def show_results(job: Job, figures: Values) -> None:
    """Print the figures of a finished run and its folder; and, but for --quiet, what else it leaves and allows."""
    pairs = paired(figures)
    rows = [(label, (format_cell(before), format_cell(after))) for label, (before, after) in pairs]
    rows += [(name, ("", value)) for name, value in others(figures)]
    show_figures(Figures(("before", "after") if pairs else ("", ""), tuple(rows)), sys.stdout)
    ways = _ways(job) if log.isEnabledFor(logging.INFO) else []
    show_lines("", [Line("results", str(job.folder), whole=True), *ways], sys.stdout)


def _ways(job: Job) -> list[Line]:
    """What there is to look at, and the commands that go on from here."""
    folder, run = job.folder, f"{shlex.quote(str(job.folder))}{' --trust-code' if job.names_code else ''}"
    command = launch_command()
    lines = [
        Line(label, str(folder / name), whole=True)
        for label, name in (("report", "report.html"), ("film", "video.mp4"), ("table", "results.csv"))
        if (folder / name).exists()
    ]
    if not isinstance(job, SceneJob):
        return [*lines, Line("go on", "the same command edits those images that are not edited yet")]
    lines += [
        Line("look at it", f"{command} --view {run}", whole=True),
        Line("export", f"{command} --export {run} mesh (or points, video, nerfstudio)", whole=True),
    ]
    if job.stage == "all":
        lines.append(Line("evaluate", f"{command} --test {run}", whole=True))
    config = shlex.quote(str(folder / "config.yaml"))
    another = "stage=all" if job.stage == "reconstruct" else 'prompt.target="..."'
    return [*lines, Line("edit again", f"{command} --config {config} tag=... {another}", whole=True)]
