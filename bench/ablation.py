"""The ablations of IDS: how many iterations N, how long a step λ, and how many steps of the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ids3d.bench.edits import Judges, Method, Snapshots, records
from ids3d.bench.images import Axes, curve, final, signed, summary, tradeoff, verdict
from ids3d.bench.store import Store
from ids3d.models.priors.protocol import Prior
from ids3d.report.page import Claim, Report
from ids3d.report.stats import Estimate, at_equal_strength, mean_interval, paired_difference
from ids3d.tasks import EditTask


@dataclass(frozen=True)
class Plan:
    """What is varied, one at a time, from N = 3, λ = 1 and `steps` steps."""

    iterations: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    scales: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0)
    loops: tuple[int, ...] = (50, 100, 200)
    steps: int = 100


QUICK = Plan(iterations=(0, 1, 3), scales=(1.0, 10.0), loops=(5, 10), steps=10)


def ids(n: int, scale: float, steps: int, label: str) -> Method:
    """IDS with N iterations of λ = scale."""
    return Method("ids", {"fpr_iterations": n, "fpr_scale": scale}, steps, label=label)


def study(
    prior: Prior,
    judges: Judges,
    tasks: Sequence[EditTask],
    store: Store,
    seed: int,
    identity: Mapping[str, Any],
    command: str,
    plan: Plan,
    snapshots: Snapshots | None = None,
) -> Report:
    """A table, curves and claims for each setting that is varied. What two of them share is edited once."""
    families = {
        "iterations": [ids(n, 1.0, plan.steps, f"N = {n}") for n in plan.iterations],
        "scale": [ids(3, scale, plan.steps, f"λ = {scale:g}") for scale in plan.scales],
        "steps": [ids(3, 1.0, steps, f"{steps} steps") for steps in plan.loops],
    }
    report = Report(
        "Ablations of IDS",
        command,
        f"{len(tasks)} edits. One setting is varied at a time, from N = 3, λ = 1 and {plan.steps} steps.",
    )
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for family, methods in families.items():
        found[family] = records(
            prior, judges, tasks, methods, store, seed, identity, snapshots or Snapshots()
        )
        axes = Axes.of(found[family])
        report.tables.append(
            summary(found[family], judges.lpips.name if judges.lpips else "", name=f"ablation-{family}")
        )
        report.figures.append(tradeoff(found[family], axes, name=f"ablation-{family}"))
    axes = Axes.of(found["iterations"])
    report.claims += _iteration_claims(found["iterations"], plan, axes)
    report.claims.append(_same_steps_claim(found["iterations"], plan, axes))
    report.claims.append(_scale_claim(found["scale"], plan, axes))
    report.claims += _truth_claim(found["scale"], plan)
    report.claims.append(_steps_claim(found["steps"], plan))
    return report


def gain(more: Sequence[Mapping[str, Any]], less: Sequence[Mapping[str, Any]], axes: Axes) -> Estimate:
    """How much better the first keep identity than the second, at equal strength."""
    return mean_interval(
        [at_equal_strength(curve(a, axes), curve(b, axes)) for a, b in zip(more, less, strict=True)]
    )


def _iteration_claims(
    found: Mapping[str, Sequence[Mapping[str, Any]]], plan: Plan, axes: Axes
) -> list[Claim]:
    """Identity is kept better as N grows from 0 to 3, with little gain after."""
    steps = list(zip(plan.iterations, plan.iterations[1:], strict=False))
    gains = {
        (a, b): gain(found[f"N = {b}"], found[f"N = {a}"], axes) for a, b in [*steps, (plan.iterations[0], 3)]
    }
    whole = gains[plan.iterations[0], 3]
    upto = "; ".join(f"N = {a} to {b}: {signed(gains[a, b])}" for a, b in steps if b <= 3)
    claims = [
        Claim(
            "Identity is kept better as N grows from 0 to 3 (at equal edit strength)",
            verdict(whole),
            f"{axes.unit}, from {plan.iterations[0]} to 3: {signed(whole)}. {upto}",
        )
    ]
    after = [(a, b) for a, b in steps if a >= 3]
    if after:
        most = after[-1][1]
        last = gain(found[f"N = {most}"], found["N = 3"], axes)
        # Little: whatever the rest may bring, its interval's end included, is less than half of what came before.
        little = last.high < 0.5 * whole.mean
        much = last.low > 0.5 * whole.mean
        claims.append(
            Claim(
                "More than three iterations bring little more",
                "not decided"
                if whole.sign != 1
                else "holds"
                if little
                else "does not hold"
                if much
                else "not decided",
                f"{axes.unit}, from 3 to {most}: {signed(last)}, after {signed(whole)} from {plan.iterations[0]} to 3",
            )
        )
    return claims


def _same_steps_claim(found: Mapping[str, Sequence[Mapping[str, Any]]], plan: Plan, axes: Axes) -> Claim:
    """What single points show: at the end of the same number of steps, however far the edits have gone by then."""
    end = {n: final(found[f"N = {n}"], axes.identity) for n in plan.iterations}
    first, most = plan.iterations[0], max(plan.iterations)
    whole = paired_difference(end[3], end[first])
    after = f"; from 3 to {most}: {signed(paired_difference(end[most], end[3]))}" if most > 3 else ""
    return Claim(
        f"After {plan.steps} steps N = 3 has kept more than N = {first} (not at equal strength)",
        verdict(whole),
        f"{axes.unit}, from {first} to 3: {signed(whole)}{after}",
    )


def _truth_claim(found: Mapping[str, Sequence[Mapping[str, Any]]], plan: Plan) -> list[Claim]:
    """Where the true edit is known: the largest λ ends further from it than λ = 1."""
    end = {scale: final(found[f"λ = {scale:g}"], "psnr") for scale in plan.scales}
    largest = max(plan.scales)
    difference = paired_difference(end[1.0], end[largest])
    if not difference.n:
        return []
    means = "; ".join(f"λ = {scale:g}: {mean_interval(values).mean:.2f}" for scale, values in end.items())
    return [
        Claim(
            f"There is a λ too large: λ = {largest:g} ends further from the true edit than λ = 1",
            verdict(difference),
            f"PSNR to the true edit, dB, λ = 1 above λ = {largest:g}: {signed(difference)}. {means}",
        )
    ]


def _scale_claim(found: Mapping[str, Sequence[Mapping[str, Any]]], plan: Plan, axes: Axes) -> Claim:
    """Too large a λ stops the edit: at the largest, less than half of what λ = 1 changes is changed."""
    largest = max(plan.scales)
    one, big = (final(found[f"λ = {scale:g}"], axes.strength) for scale in (1.0, largest))
    half = paired_difference([0.5 * x for x in one], big)
    shares = "; ".join(
        f"λ = {s:g}: {mean_interval(final(found[f'λ = {s:g}'], axes.strength)).mean:.2f}" for s in plan.scales
    )
    return Claim(
        f"Too large a λ stops the edit (λ = {largest:g} changes less than half of what λ = 1 does)",
        verdict(half),
        f"{axes.strength_label} at the end: {shares}",
    )


def _steps_claim(found: Mapping[str, Sequence[Mapping[str, Any]]], plan: Plan) -> Claim:
    """Fewer steps keep the source better: what the paper's costs show of 100 and 200 steps (LPIPS 0.165 and 0.190)."""
    figure = "lpips_to_source"
    few, many = sorted(plan.loops)[-2:]
    a, b = (final(found[f"{n} steps"], figure) for n in (few, many))
    difference = paired_difference(b, a)
    return Claim(
        f"{few} steps keep the source better than {many} (LPIPS to it; not at equal strength)",
        verdict(difference),
        f"LPIPS {mean_interval(a).mean:.3f} against {mean_interval(b).mean:.3f}, difference {signed(difference, 3)}",
    )
