"""Table 1: pictures edited by every method, where the true edit is known, and on a user's own pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ids3d.bench.edits import Judges, Method, Snapshots, records
from ids3d.bench.store import Store
from ids3d.images import difference, panel
from ids3d.models.priors.protocol import Prior
from ids3d.report.page import Claim, Figure, Report, Table, Verdict, plot_lines, stack_rows
from ids3d.report.stats import Curve, Estimate, at_equal_strength, mean_interval, paired_difference
from ids3d.tasks import EditTask

COLUMNS = {
    "psnr": "PSNR to the true edit, dB",
    "psnr_inside": "inside its mask",
    "psnr_outside": "PSNR outside the mask, dB",
    "lpips_outside": "LPIPS to the source outside the mask",
    "lpips_to_source": "LPIPS to the source",
    "psnr_to_source": "PSNR to the source, dB",
    "strength": "share of the true change",
    "iou": "IoU of the change",
    "clip_score": "CLIP score of the target",
    "clip_direction": "directional CLIP similarity",
    "consistency": "agreement of neighbouring views, dB",
    "depth_change": "relative change of depth",
}


def final(rows: Sequence[Mapping[str, Any]], figure: str) -> list[float]:
    """A figure of the finished edits; nan where it is not defined."""
    return [float(row["snapshots"][-1].get(figure, math.nan)) for row in rows]


@dataclass(frozen=True)
class Axes:
    """What edit strength and identity are measured by, and how they are called."""

    strength: str
    strength_label: str
    identity: str
    unit: str

    @staticmethod
    def of(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Axes:
        """By the true edit where it is known for some, otherwise by the source and the captions."""
        if any(math.isfinite(v) for rows in found.values() for v in final(rows, "psnr")):
            return Axes("strength", "share of the true change", "psnr_outside", "PSNR outside the mask, dB")
        return Axes(
            "clip_direction", "directional CLIP similarity", "psnr_to_source", "PSNR to the source, dB"
        )


def summary(found: Mapping[str, Sequence[Mapping[str, Any]]], lpips: str, name: str = "images") -> Table:
    """A row for each method; only columns that are defined for some."""
    columns = [c for c in COLUMNS if any(math.isfinite(v) for rows in found.values() for v in final(rows, c))]
    rows: list[tuple[str, tuple[Estimate | float | str, ...]]] = []
    for label, records_ in found.items():
        cells = tuple(mean_interval(final(records_, column)) for column in columns)
        rows.append((label, (*cells, mean_interval([float(r["seconds"]) for r in records_]))))
    n = max((len(rows_) for rows_ in found.values()), default=0)
    left_out = [] if "psnr" in columns else ["No true edit is known: the columns that need one are left out."]
    note = " ".join(
        [
            f"Means over {n} edits with bootstrapped 95 % intervals.",
            f"LPIPS is {lpips}." if lpips else "",
            *left_out,
        ]
    )
    return Table(name, (*(COLUMNS[c] for c in columns), "seconds per edit"), tuple(rows), note)


def curve(row: Mapping[str, Any], axes: Axes) -> Curve:
    """How an edit went on."""
    points = [(s.get(axes.strength, math.nan), s.get(axes.identity, math.nan)) for s in row["snapshots"]]
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    return Curve(tuple(x for x, _ in points), tuple(y for _, y in points))


def identity_claim(found: Mapping[str, Sequence[Mapping[str, Any]]], other: str, axes: Axes) -> Claim:
    """Does IDS keep identity better than another method where both have gone equally far?"""
    pairs = zip(found["IDS"], found[other], strict=True)
    gains = [at_equal_strength(curve(a, axes), curve(b, axes)) for a, b in pairs]
    estimate = mean_interval(gains)
    end = paired_difference(final(found["IDS"], axes.identity), final(found[other], axes.identity))
    evidence = (
        f"{axes.unit} at equal strength: {signed(estimate)}, over {estimate.n} edits that both take as far; "
        f"at the end of each: {signed(end)}"
    )
    return Claim(
        f"IDS keeps identity better than {other} at equal edit strength", verdict(estimate), evidence
    )


def verdict(estimate: Estimate) -> Verdict:
    """Whether a difference that is claimed to be above zero is."""
    return {1: "holds", -1: "does not hold", 0: "not decided"}[estimate.sign]  # type: ignore[return-value]


def signed(e: Estimate, digits: int = 2) -> str:
    """A difference with its interval, if it has one, as text."""
    if math.isnan(e.low):
        return f"{e.mean:+.{digits}f}" if e.n else "–"
    return f"{e.mean:+.{digits}f} ({e.low:+.{digits}f} to {e.high:+.{digits}f})"


def study(
    prior: Prior,
    judges: Judges,
    tasks: Sequence[EditTask],
    methods: Sequence[Method],
    store: Store,
    seed: int,
    identity: Mapping[str, Any],
    command: str,
    plan: Snapshots | None = None,
) -> Report:
    """Edits, table, claims, curves and a gallery."""
    found = records(prior, judges, tasks, methods, store, seed, identity, plan or Snapshots())
    axes = Axes.of(found)
    report = Report("Editing pictures", command, f"{len(tasks)} edits by {', '.join(found)}.")
    report.tables.append(summary(found, judges.lpips.name if judges.lpips else ""))
    if "IDS" in found:
        for other in ("DDS", "CDS"):
            if other in found:
                report.claims.append(identity_claim(found, other, axes))
    report.figures.append(tradeoff(found, axes))
    report.figures.append(gallery(found, store, 8))
    return report


def tradeoff(
    found: Mapping[str, Sequence[Mapping[str, Any]]], axes: Axes, name: str = "identity-against-strength"
) -> Figure:
    """Identity against strength, means over the edits at each snapshot."""
    lines, points = [], []
    for label, rows in found.items():
        shares = [s["share"] for s in rows[0]["snapshots"]]
        means = [
            [
                mean_interval([r["snapshots"][i].get(f, math.nan) for r in rows]).mean
                for i in range(len(shares))
            ]
            for f in (axes.strength, axes.identity)
        ]
        if len(shares) > 1:
            lines.append((label, means[0], means[1]))
        else:
            points.append((label, means[0][0], means[1][0]))
    return Figure(
        name,
        "Identity against edit strength, as the edits go on (means over all edits): up and to the right is better.",
        plot_lines("identity against strength", (axes.strength_label, axes.unit), lines, points),
    )


def gallery(found: Mapping[str, Sequence[Mapping[str, Any]]], store: Store, count: int) -> Figure:
    """Some edits of each kind: source, truth and each method's; below them what changed; and depths, if any."""
    first = next(iter(found.values()))
    by_kind = sorted(range(len(first)), key=lambda index: str(first[index].get("kind", "")))
    last = len(first) - 1
    chosen = sorted({by_kind[round(i * last / max(1, count - 1))] for i in range(count)})
    rows = []
    for index in chosen:
        known = {key: store.picture(first[index][key]) for key in ("source", "truth") if key in first[index]}
        edits = {label: store.picture(records_[index]["edited"]) for label, records_ in found.items()}
        changes = {f"{label}: change": difference(known["source"], edit) for label, edit in edits.items()}
        beside = {"": torch.ones_like(known["source"])}
        if "truth" in known:
            beside = {"": beside[""], "true change": difference(known["source"], known["truth"])}
        rows += [panel({**known, **edits}, height=96), panel({**beside, **changes}, height=96)]
        if "source_depth" in first[index]:
            depths = {"depth": store.picture(first[index]["source_depth"])}
            if "truth" in known:
                depths = {"": beside[""], **depths}
            depths |= {
                f"{label}: depth": store.picture(r[index]["edited_depth"]) for label, r in found.items()
            }
            rows.append(panel(depths, height=96))
    captions = "; ".join(f"“{first[i]['captions'][0]}” to “{first[i]['captions'][1]}”" for i in chosen)
    return Figure("gallery", f"From top to bottom: {captions}.", stack_rows(rows))
