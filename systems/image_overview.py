"""What a run over images is about to do, on one screen."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ids3d.screen import Line, show_lines
from ids3d.systems.estimate import (
    VIEWS,
    Costs,
    Estimate,
    basis_in_words,
    memory_in_words,
    method_costs,
    peak_gb,
    total,
)
from ids3d.systems.overview import (
    estimate_lines,
    method_lines,
    place_lines,
    prior_in_words,
    settings_in_words,
    title_of,
)
from ids3d.systems.work import CountsWork, Work

if TYPE_CHECKING:
    from ids3d.systems.image_run import ImageRun, PreparedImage


def show_image_run(run: ImageRun, first: Sequence[PreparedImage]) -> None:
    """Print what a run is about to do; for that, a step of the method is timed on the first images of all.

    Nothing is drawn from torch's own generators, and nothing of the run is changed.
    """
    job, count, before = run.job, len(run.tasks), peak_gb(run.device)
    left = max(len(first), sum(not (job.folder / task.name / "result.json").exists() for task in run.tasks))
    work = run.system.work() if isinstance(run.system, CountsWork) else None
    with torch.random.fork_rng([run.device] if run.device.type == "cuda" else []):
        costs = Costs() if work is None else _costs(run, first[:VIEWS])
    height, width = first[0].image.shape[1:]
    large, wide = first[0].original.rgb.shape[:2]
    there = f", {count - left} of them edited already" if left < count else ""
    own = f"“{first[0].source}” to “{first[0].target}”"
    own = own if count == 1 else f"of the first, {own}"
    lines = [
        Line("data", f"{count} image{'s' * (count > 1)}{there} ({_data(run)})"),
        Line("", f"{first[0].task.name}: {wide}x{large} pixels, edited at {width}x{height}"),
        Line("prompts", own),
        Line("prior", prior_in_words(job.prior, run.prior)),
        *method_lines(job.guidance),
        Line("edit", f"{job.edit.type}{'' if work is None else f': {work.how}'}"),
        *place_lines(job, run.device, "What is finished is kept: the same command does the rest."),
        *estimate_lines(_estimate(run, work, costs, left, before, len(first[:VIEWS]))),
    ]
    show_lines(title_of(job), lines, sys.stderr)


def _data(run: ImageRun) -> str:
    given = settings_in_words(run.job.data, list(run.job.data.to_mapping()))
    return f"{run.job.data.type}: {given}" if given else run.job.data.type


def _costs(run: ImageRun, images: Sequence[PreparedImage]) -> Costs:
    """What a step of the method costs on these, as many of them as are of one size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of prompts that are cut off, which is said later
        prompts = (
            run.prior.embed([image.source for image in images]),
            run.prior.embed([image.target for image in images]),
        )
    pixels = torch.stack([image.image for image in images]).to(run.device)
    return method_costs(run.prior, run.job.guidance.build(run.prior), prompts, pixels)


def _estimate(
    run: ImageRun, work: Work | None, costs: Costs, left: int, before: float, timed: int
) -> Estimate:
    if work is None:
        return Estimate("not known", "not known", f"nothing: {run.job.edit.type} does not say what it does")
    step = "a prediction of the prior" if run.job.guidance.kind == "sampler" else "a step of the guidance"
    size = ", all images being as large" if left > timed else ""
    basis = [f"{step} on {timed} image{'s' * (timed > 1)}{size}"]
    batch = min(work.batch, left)
    parts = [
        (before, "in use now"),
        (batch * costs.guided_gb, f"for {batch} image{'s' * (batch > 1)} at once"),
    ]
    return Estimate(
        total([("edit", left * costs.seconds(work))]),
        memory_in_words(run.device, parts),
        basis_in_words(basis, ["reading", "measuring", "writing"]),
    )
