"""Ablations of IDS: how many iterations N, how long a step λ, and how many steps of the loop."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ids3d.bench import options
from ids3d.bench.comparison import (
    Axes,
    Records,
    choose_axes,
    final_figures,
    format_difference,
    gain_at_equal_strength,
    summary_table,
    tradeoff,
    verdict_on,
)
from ids3d.bench.edits import SnapshotConfig, run_edits
from ids3d.bench.image_metrics import ImageMetrics
from ids3d.bench.methods import Method
from ids3d.bench.study import Study, StudyContext, open_context
from ids3d.cli import ArgumentParser
from ids3d.report.page import Claim, Report, Verdict
from ids3d.report.stats import Estimate, mean_interval, paired_difference
from ids3d.tasks import EditTask


@dataclass(frozen=True)
class AblationConfig:
    """What is varied, one at a time, from N = 3, λ = 1 and the config's steps.

    Attributes:
        iterations: values of N, rising; 3 among them.
        scales: values of λ, 1 among them.
        loops: numbers of steps, as shares of the config's, two at least.
    """

    iterations: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    scales: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0)
    loops: tuple[float, ...] = (0.5, 1.0, 2.0)


QUICK = AblationConfig(iterations=(0, 1, 3), scales=(1.0, 10.0), loops=(0.5, 1.0))
QUICK_EDITS, QUICK_STEPS = 4, 10


def loops(base: Method, config: AblationConfig) -> list[int]:
    """Return the numbers of steps that are compared, rising."""
    return sorted(max(round(share * base.steps), 1) for share in config.loops)


def study(
    context: StudyContext, metrics: ImageMetrics, tasks: Sequence[EditTask], config: AblationConfig
) -> Report:
    """Report a table, curves and claims for each setting that is varied. What two of them share is edited once."""
    base = context.config.method("ids")

    def ids(label: str, **settings: float) -> Method:
        return replace(base, settings={**base.settings, **settings}, label=label)

    families = {
        "iterations": [ids(f"N = {n}", fpr_iterations=n) for n in config.iterations],
        "scale": [ids(f"λ = {scale:g}", fpr_scale=scale) for scale in config.scales],
        "steps": [replace(ids(f"{n} steps"), steps=n) for n in loops(base, config)],
    }
    report = Report(
        "Ablations of IDS",
        context.command,
        f"{len(tasks)} edits. One setting is varied at a time, from N = 3, λ = 1 and {base.steps} steps.",
    )
    records: dict[str, Records] = {}
    for family, methods in families.items():
        records[family] = run_edits(context, metrics, tasks, methods, SnapshotConfig())
        axes = choose_axes(records[family])
        report.tables.append(summary_table(records[family], metrics.lpips.name, f"ablation-{family}"))
        report.figures.append(tradeoff(records[family], axes, f"ablation-{family}"))
    axes = choose_axes(records["iterations"])
    report.claims += iteration_claims(records["iterations"], config, axes)
    report.claims.append(same_steps_claim(records["iterations"], config, axes))
    report.claims.append(scale_claim(records["scale"], config, axes))
    report.claims += truth_claims(records["scale"], config)
    report.claims.append(steps_claim(records["steps"]))
    return report


def iteration_claims(records: Records, config: AblationConfig, axes: Axes) -> list[Claim]:
    """Decide whether identity is kept better as N grows from its least to 3, and whether more brings little."""
    first, most = config.iterations[0], config.iterations[-1]

    def gain(less: int, more: int) -> Estimate:
        return gain_at_equal_strength(records[f"N = {more}"], records[f"N = {less}"], axes)

    whole = gain(first, 3)
    pairs = zip(config.iterations, config.iterations[1:], strict=False)
    single = "; ".join(f"N = {a} to {b}: {format_difference(gain(a, b))}" for a, b in pairs if b <= 3)
    claims = [
        Claim(
            f"Identity is kept better as N grows from {first} to 3 (at equal edit strength)",
            verdict_on(whole),
            f"{axes.identity_label}, from {first} to 3: {format_difference(whole)}. {single}",
        )
    ]
    if most > 3:
        rest = gain(3, most)
        claims.append(
            Claim(
                "More than three iterations bring little more",
                little_more(whole, rest),
                f"{axes.identity_label}, from 3 to {most}: {format_difference(rest)}, after "
                f"{format_difference(whole)} from {first} to 3",
            )
        )
    return claims


def little_more(whole: Estimate, rest: Estimate) -> Verdict:
    """Decide whether `rest`, up to its interval's end, is less than half of `whole`, a gain above zero."""
    if whole.sign != 1:
        return "not decided"
    if rest.high < 0.5 * whole.mean:
        return "holds"
    return "does not hold" if rest.low > 0.5 * whole.mean else "not decided"


def same_steps_claim(records: Records, config: AblationConfig, axes: Axes) -> Claim:
    """Decide whether N = 3 has kept more than the least N after as many steps, however far the edits have gone."""
    end = {n: final_figures(records[f"N = {n}"], axes.identity) for n in config.iterations}
    first, most = config.iterations[0], max(config.iterations)
    whole = paired_difference(end[3], end[first])
    after = (
        f"; from 3 to {most}: {format_difference(paired_difference(end[most], end[3]))}" if most > 3 else ""
    )
    return Claim(
        f"After the same steps N = 3 has kept more than N = {first} (not at equal strength)",
        verdict_on(whole),
        f"{axes.identity_label}, from {first} to 3: {format_difference(whole)}{after}",
    )


def truth_claims(records: Records, config: AblationConfig) -> list[Claim]:
    """Decide whether the largest λ ends further from the true edit than λ = 1; nothing where that is not known."""
    end = {scale: final_figures(records[f"λ = {scale:g}"], "psnr") for scale in config.scales}
    largest = max(config.scales)
    difference = paired_difference(end[1.0], end[largest])
    if not difference.n:
        return []
    means = "; ".join(f"λ = {scale:g}: {mean_interval(values).mean:.2f}" for scale, values in end.items())
    return [
        Claim(
            f"There is a λ too large: λ = {largest:g} ends further from the true edit than λ = 1",
            verdict_on(difference),
            f"PSNR to the true edit, dB, λ = 1 above λ = {largest:g}: {format_difference(difference)}. {means}",
        )
    ]


def scale_claim(records: Records, config: AblationConfig, axes: Axes) -> Claim:
    """Decide whether too large a λ stops the edit: the largest changes less than half of what λ = 1 changes."""
    largest = max(config.scales)
    one, big = (final_figures(records[f"λ = {scale:g}"], axes.strength) for scale in (1.0, largest))
    half = paired_difference([0.5 * x for x in one], big)
    means = {
        s: mean_interval(final_figures(records[f"λ = {s:g}"], axes.strength)).mean for s in config.scales
    }
    shares = "; ".join(f"λ = {scale:g}: {mean:.2f}" for scale, mean in means.items())
    return Claim(
        f"Too large a λ stops the edit (λ = {largest:g} changes less than half of what λ = 1 does)",
        verdict_on(half),
        f"{axes.strength_label} at the end: {shares}",
    )


def steps_claim(records: Records) -> Claim:
    """Decide whether fewer steps keep the source better, as 100 do in the paper (LPIPS 0.165; 0.190 after 200)."""
    few, many = list(records)[-2:]
    a, b = (final_figures(records[label], "lpips_to_source") for label in (few, many))
    difference = paired_difference(b, a)
    return Claim(
        f"{few} keep the source better than {many} (LPIPS to it; not at equal strength)",
        verdict_on(difference),
        f"LPIPS {mean_interval(a).mean:.3f} against {mean_interval(b).mean:.3f}, "
        f"difference {format_difference(difference, 3)}",
    )


def add_options(command: ArgumentParser) -> None:
    options.add_edits(command, 24)
    options.add_folder(command)
    options.add_metrics(command)


def run(arguments: argparse.Namespace, command: str) -> Report:
    """Do what the arguments say. Raises UserError."""
    context = open_context(arguments, command, QUICK_STEPS if arguments.quick else None)
    tasks = options.edit_tasks(arguments, context.prior, QUICK_EDITS if arguments.quick else arguments.edits)
    metrics = options.load_metrics(arguments, context.prior)
    return study(context, metrics, tasks, QUICK if arguments.quick else AblationConfig())


STUDY = Study("ablation", "IDS with other N, λ and numbers of steps", add_options, run)
