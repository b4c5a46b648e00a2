"""What each method costs: time per step, evaluations of the UNet, peak memory, and the ratio to DDS."""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ids3d.bench import options
from ids3d.bench.edits import batches_by_size
from ids3d.bench.methods import IMAGE_METHODS, Method
from ids3d.bench.study import Study, StudyContext, open_context
from ids3d.cli import ArgumentParser
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
COLUMNS = (
    "ms per step and image",
    "ratio to DDS",
    "seconds per edit",
    "UNet forward, latents per step",
    "UNet backward, latents per step",
    "peak memory beyond the models, MB",
)


@dataclass(frozen=True)
class CostConfig:
    """How much is measured.

    Attributes:
        rounds: how often each method has its turn; the first round warms up and is not counted.
        steps: of a guidance, per round. A sampler does its whole edit.
        images: at once.
    """

    rounds: int = 9
    steps: int = 4
    images: int = 4


QUICK = CostConfig(rounds=4, steps=1, images=2)
QUICK_STEPS = 10


@dataclass(frozen=True)
class Costs:
    """What was measured of each method, by its display name, as the store keeps it.

    Attributes:
        seconds: per step and image, of each counted round.
        forward, backward: latents that the UNet predicted, and was differentiated for, per step and image.
        steps: of a whole edit.
        memory: peak beyond the models in MB; left out where that cannot be measured.
    """

    seconds: dict[str, list[float]]
    forward: dict[str, float]
    backward: dict[str, float]
    steps: dict[str, int]
    memory: dict[str, float]


class CountingPrior:
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
    """b images, ready to be edited: their latents (b, c, h, w) and b prompts each."""

    z: Tensor
    source: Prompt
    target: Prompt


def study(
    context: StudyContext, tasks: Sequence[EditTask], methods: Sequence[Method], config: CostConfig
) -> Report:
    """Report times of methods in alternation, counted evaluations of the UNet, and the peak memory of one step."""
    work = _prepare(context.prior, tasks[: config.images])
    settings = {
        **context.identity,
        **asdict(config),
        "methods": [method.identity for method in methods],
        "threads": torch.get_num_threads(),
    }
    rows = context.store.get(
        "cost", settings, lambda: [asdict(_measure(context.prior, work, methods, config))]
    )
    costs = Costs(**rows[0])
    note = (
        f"{config.images} images at once on {context.prior.device.type}, {torch.get_num_threads()} threads; medians of "
        f"{config.rounds - 1} rounds in which the methods take turns, and the mean ratio of each round with its 95 % "
        "interval. A step of a method that samples is its whole edit divided by its steps."
    )
    report = Report("What the methods cost", context.command)
    report.tables.append(Table("cost", COLUMNS, tuple(_row(costs, label) for label in costs.seconds), note))
    if {"IDS", "DDS"} <= set(costs.seconds):
        report.claims.append(_ratio_claim(_ratio_to_dds(costs, "IDS")))
    return report


def _row(costs: Costs, label: str) -> tuple[str, tuple[Estimate | float | str, ...]]:
    """Return a method's row of the table."""
    seconds = statistics.median(costs.seconds[label])
    cells = (
        1000 * seconds,
        _ratio_to_dds(costs, label) if "DDS" in costs.seconds else "–",
        seconds * costs.steps[label],
        costs.forward[label],
        costs.backward[label],
        costs.memory.get(label, math.nan),
    )
    return label, cells


def _ratio_to_dds(costs: Costs, label: str) -> Estimate:
    pairs = zip(costs.seconds[label], costs.seconds["DDS"], strict=True)
    return mean_interval([own / dds for own, dds in pairs])


def _ratio_claim(ratio: Estimate) -> Claim:
    """Decide whether the interval lies near the paper's figure: to hold it is not enough, as a wide one holds any."""
    near = ratio.low >= 0.8 * PAPER_RATIO and ratio.high <= 1.2 * PAPER_RATIO
    apart = ratio.high < PAPER_RATIO or ratio.low > PAPER_RATIO
    return Claim(
        f"A step of IDS (N = 3) costs about {PAPER_RATIO} times one of DDS, as in the paper (within 20 %)",
        "holds" if near else "does not hold" if apart else "not decided",
        f"{ratio.mean:.2f} times ({ratio.low:.2f} to {ratio.high:.2f})",
    )


def _prepare(prior: Prior, tasks: Sequence[EditTask]) -> Work:
    """Encode the images of the first one's size, and embed their prompts."""
    batch = batches_by_size(prior, tasks)[0]
    with torch.no_grad():
        z = prior.encode(batch.sources.to(prior.device))
    return Work(z, prior.embed(batch.source_captions), prior.embed(batch.target_captions))


def _edit(method: Method, guidance: Any, work: Work, steps: int) -> int:
    """Do `steps` steps of a guidance, or the whole edit of a sampler; return how many steps that were."""
    generators = [generator_for(0, f"cost/{i}") for i in range(len(work.z))]
    with torch.no_grad():
        if isinstance(guidance, Sampler):
            guidance.edit(work.z, work.source, work.target, generators)
            return int(guidance.cfg.steps)
        optimise(guidance, work.z, work.source, work.target, generators, steps, method.lr)
    return steps


def _measure(prior: Prior, work: Work, methods: Sequence[Method], config: CostConfig) -> Costs:
    """Time the methods in turns, count their evaluations, and measure the memory of one step of each."""
    counting: Any = CountingPrior(prior)
    built = [(method.display_name, method, method.build(counting)) for method in methods]
    costs = Costs({label: [] for label, _, _ in built}, {}, {}, {}, {})
    for index in track(range(config.rounds), "timing", unit="round"):
        for label, method, guidance in built:
            counting.forward = counting.backward = 0
            _synchronise(prior)
            start = time.perf_counter()
            done = _edit(method, guidance, work, config.steps)
            _synchronise(prior)
            seconds = time.perf_counter() - start
            each = done * len(work.z)
            if index:
                costs.seconds[label].append(seconds / each)
            costs.forward[label], costs.backward[label] = counting.forward / each, counting.backward / each
            costs.steps[label] = done if isinstance(guidance, Sampler) else method.steps
    for label, method, guidance in built:
        peak = peak_memory(partial(_edit, method, guidance, work, 1), prior.device)
        if math.isfinite(peak):
            costs.memory[label] = peak
    return costs


def _synchronise(prior: Prior) -> None:
    if prior.device.type == "cuda":
        torch.cuda.synchronize(prior.device)


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """Return the MB held while `work` runs, at most, beyond what is held before it; nan where that can't be measured.

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
    ctypes.CDLL(None).malloc_trim(0)  # give back what was freed, or `work` would use it uncounted
    mark.write_text("5")  # proc(5): resets the high-water mark
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) * 1024 / 1e6


def _kilobytes(field: str) -> int:
    """Return a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def add_options(command: ArgumentParser) -> None:
    options.add_methods(command, IMAGE_METHODS)
    options.add_folder(command)


def run(arguments: argparse.Namespace, command: str) -> Report:
    """Do what the arguments say. Raises UserError."""
    context = open_context(arguments, command, QUICK_STEPS if arguments.quick else None)
    config = QUICK if arguments.quick else CostConfig()
    tasks = options.edit_tasks(arguments, context.prior, config.images)
    return study(context, tasks, options.build_methods(context, arguments), config)


STUDY = Study("cost", "time, evaluations of the UNet and memory of every method", add_options, run)
