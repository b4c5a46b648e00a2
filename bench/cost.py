"""What each method costs: time per step, evaluations of the UNet, peak memory, and the ratio to DDS."""

from __future__ import annotations

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ids3d.bench.edits import Method, grouped
from ids3d.bench.store import Store
from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.models.samplers.protocol import Sampler
from ids3d.progress import track
from ids3d.report.page import Claim, Report, Table
from ids3d.report.stats import Estimate, mean_interval
from ids3d.seeding import generator_for
from ids3d.systems.edit_images.latents import optimise
from ids3d.tasks import EditTask

PAPER_RATIO = 4.8
"""107.77 s against 22.45 s for 200 steps on an RTX 3090 (Kim et al. 2025)."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 9  # each method in turn, this often; the first round warms up and is not counted
    steps: int = 4  # of a method with a gradient, per round
    pictures: int = 4  # at once


QUICK = Plan(rounds=4, steps=1, pictures=2)


class Counted:
    """A prior that counts what is asked of its UNet: latents predicted forwards, and those differentiated through.

    A prompted and an unprompted prediction, as guidance needs them, count as two.
    """

    def __init__(self, prior: Prior) -> None:
        self._prior = prior
        self.forward = 0
        self.backward = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def predict_noise(self, z_t: Tensor, t: Tensor, prompt: Prompt, guidance_scale: float) -> Tensor:
        rows = len(z_t) * (1 if guidance_scale in (0, 1) else 2)
        self.forward += rows
        self.backward += rows if torch.is_grad_enabled() and z_t.requires_grad else 0
        return self._prior.predict_noise(z_t, t, prompt, guidance_scale)


@dataclass(frozen=True)
class Work:
    """One batch of pictures, ready to be edited."""

    z: Tensor
    source: Prompt
    target: Prompt


def study(
    prior: Prior,
    tasks: Sequence[EditTask],
    methods: Sequence[Method],
    store: Store,
    identity: Mapping[str, Any],
    command: str,
    plan: Plan,
) -> Report:
    """Times in alternation, medians; evaluations of the UNet, counted; and peak memory of one step."""
    work = _prepare(prior, tasks, plan)
    settings = {**identity, "rounds": plan.rounds, "steps": plan.steps, "pictures": plan.pictures}
    settings["methods"] = [[m.name, dict(m.settings), m.steps] for m in methods]
    settings["threads"] = torch.get_num_threads()
    rounds = store.get("cost", settings, lambda: _rounds(prior, work, methods, plan))
    seconds = {m.shown: [r["seconds"][m.shown] for r in rounds] for m in methods}
    base = seconds.get("DDS")
    rows = []
    for method in methods:
        own, counts = seconds[method.shown], rounds[0]["evaluations"][method.shown]
        ratio: Estimate | str = "–"
        if base is not None:
            ratio = mean_interval([a / b for a, b in zip(own, base, strict=True)])
        cells = (
            1000 * statistics.median(own),
            ratio,
            statistics.median(own) * rounds[0]["steps"][method.shown],
            counts[0],
            counts[1],
            rounds[0]["memory"].get(method.shown, math.nan),
        )
        rows.append((method.shown, cells))
    columns = (
        "ms per step and picture",
        "ratio to DDS",
        "seconds per edit",
        "UNet forward, latents per step",
        "UNet backward, latents per step",
        "peak memory beyond the models, MB",
    )
    note = (
        f"{plan.pictures} pictures at once on {prior.device.type}, {torch.get_num_threads()} threads; medians of "
        f"{plan.rounds - 1} rounds in which the methods take turns, and the mean ratio of each round with its 95 % "
        "interval. A step of a method that samples is its whole edit divided by its steps."
    )
    report = Report("What the methods cost", command, "")
    report.tables.append(Table("cost", columns, tuple(rows), note))
    if base is not None and "IDS" in seconds:
        ids = mean_interval([a / b for a, b in zip(seconds["IDS"], base, strict=True)])
        # An interval that merely holds the paper's figure would agree with anything if it were wide enough.
        near = ids.low >= 0.8 * PAPER_RATIO and ids.high <= 1.2 * PAPER_RATIO
        apart = ids.high < PAPER_RATIO or ids.low > PAPER_RATIO
        report.claims.append(
            Claim(
                f"A step of IDS (N = 3) costs about {PAPER_RATIO} times one of DDS, as in the paper (within 20 %)",
                "holds" if near else "does not hold" if apart else "not decided",
                f"{ids.mean:.2f} times ({ids.low:.2f} to {ids.high:.2f})",
            )
        )
    return report


def _prepare(prior: Prior, tasks: Sequence[EditTask], plan: Plan) -> Work:
    group = grouped(prior, tasks[: plan.pictures])[0]
    with torch.no_grad():
        z = prior.encode(group.sources.to(prior.device))
    return Work(z, prior.embed(group.source_captions), prior.embed(group.target_captions))


def _run(method: Method, guidance: Any, work: Work, steps: int) -> int:
    """Does `steps` steps, or the whole edit of a method that samples; how many steps that were."""
    generators = [generator_for(0, f"cost/{i}") for i in range(len(work.z))]
    with torch.no_grad():
        if isinstance(guidance, Sampler):
            guidance.edit(work.z, work.source, work.target, generators)
            return int(guidance.cfg.steps)
        optimise(guidance, work.z, work.source, work.target, generators, steps, method.lr)
    return steps


def _rounds(prior: Prior, work: Work, methods: Sequence[Method], plan: Plan) -> list[dict[str, Any]]:
    """Of each counted round, seconds per step and picture; evaluations and steps; with the first, the memory."""
    counted: Any = Counted(prior)
    built = [(method, method.build(counted)) for method in methods]
    rounds: list[dict[str, Any]] = []
    evaluations: dict[str, list[float]] = {}
    steps: dict[str, int] = {}
    for index in track(range(plan.rounds), "timing", unit="round"):
        seconds = {}
        for method, guidance in built:
            counted.forward = counted.backward = 0
            _synchronise(prior)
            start = time.perf_counter()
            done = _run(method, guidance, work, plan.steps)
            _synchronise(prior)
            each = done * len(work.z)
            seconds[method.shown] = (time.perf_counter() - start) / each
            evaluations[method.shown] = [counted.forward / each, counted.backward / each]
            steps[method.shown] = done if isinstance(guidance, Sampler) else method.steps
        if index:
            rounds.append({"seconds": seconds, "evaluations": evaluations, "steps": steps})
    memory = {
        method.shown: peak_memory(lambda m=method, g=guidance: _run(m, g, work, 1), prior.device)  # type: ignore[misc]
        for method, guidance in built
    }
    rounds[0]["memory"] = {name: value for name, value in memory.items() if math.isfinite(value)}
    return rounds


def _synchronise(prior: Prior) -> None:
    if prior.device.type == "cuda":
        torch.cuda.synchronize(prior.device)


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """MB held while `work` runs, at most, beyond what is held before it; nan where that can't be measured.

    On CUDA of tensors; on a CPU of the process, as Linux keeps the high-water mark of its resident size.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    mark = Path("/proc/self/clear_refs")
    if not mark.exists():
        return math.nan
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is given back, lest `work` use it uncounted
    mark.write_text("5")  # proc(5): the high-water mark begins anew
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) * 1024 / 1e6


def _kilobytes(field: str) -> int:
    """A field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
