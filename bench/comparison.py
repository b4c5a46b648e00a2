"""Compare methods by their records of the same edits: table, claims, curves and a gallery."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from ids3d.bench.edits import EditRecord
from ids3d.bench.image_metrics import ImageMetrics
from ids3d.bench.store import Store
from ids3d.bench.study import StudyContext
from ids3d.images import difference, panel
from ids3d.report.page import Claim, Figure, Report, Table, Verdict, plot_lines, stack_rows
from ids3d.report.stats import Curve, Estimate, at_equal_strength, mean_interval, paired_difference

Records: TypeAlias = Mapping[str, Sequence[EditRecord]]
"""By the methods' display names; of the same edits in the same order."""

GALLERY_EDITS = 8
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


@dataclass(frozen=True)
class Axes:
    """The figures that measure edit strength and identity, and what reports call them."""

    strength: str
    strength_label: str
    identity: str
    identity_label: str


WITH_TRUTH = Axes("strength", "share of the true change", "psnr_outside", "PSNR outside the mask, dB")
WITHOUT_TRUTH = Axes(
    "clip_direction", "directional CLIP similarity", "psnr_to_source", "PSNR to the source, dB"
)


def choose_axes(records: Records) -> Axes:
    """Measure by the true edit if it is known for some, otherwise by the source and the captions."""
    known = any(math.isfinite(v) for edits in records.values() for v in final_figures(edits, "psnr"))
    return WITH_TRUTH if known else WITHOUT_TRUTH


def compare(
    title: str, about: str, name: str, context: StudyContext, metrics: ImageMetrics, records: Records
) -> Report:
    """Return a report with everything that this file offers; `name` is the table's."""
    axes = choose_axes(records)
    report = Report(title, context.command, about)
    report.tables.append(summary_table(records, metrics.lpips.name, name))
    report.claims += [identity_claim(records, *pair, axes) for pair in claimed_pairs(records)]
    report.figures += [tradeoff(records, axes), gallery(records, context.store)]
    return report


def final_figures(edits: Sequence[EditRecord], figure: str) -> list[float]:
    """Return a figure of the finished edits; nan where it is not defined."""
    return [float(edit.snapshots[-1].get(figure, math.nan)) for edit in edits]


def summary_table(records: Records, lpips_name: str, name: str) -> Table:
    """Return a table with a row for each method, and the columns that are defined for some edit."""
    columns = [
        column
        for column in COLUMNS
        if any(math.isfinite(v) for edits in records.values() for v in final_figures(edits, column))
    ]
    rows: list[tuple[str, tuple[Estimate, ...]]] = []
    for label, edits in records.items():
        cells = [mean_interval(final_figures(edits, column)) for column in columns]
        rows.append((label, (*cells, mean_interval([edit.seconds for edit in edits]))))
    n = max((len(edits) for edits in records.values()), default=0)
    note = f"Means over {n} edits with bootstrapped 95 % intervals. LPIPS is {lpips_name}."
    if "psnr" not in columns:
        note += " No true edit is known: the columns that need one are left out."
    return Table(name, (*(COLUMNS[column] for column in columns), "seconds per edit"), tuple(rows), note)


def curve_of(edit: EditRecord, axes: Axes) -> Curve:
    """Return an edit's strength and identity at the snapshots at which both are defined."""
    points = [(s.get(axes.strength, math.nan), s.get(axes.identity, math.nan)) for s in edit.snapshots]
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    return Curve(tuple(x for x, _ in points), tuple(y for _, y in points))


def gain_at_equal_strength(a: Sequence[EditRecord], b: Sequence[EditRecord], axes: Axes) -> Estimate:
    """Return by how much a keep identity better than b, over pairs of edits that reach a strength in common."""
    pairs = zip(a, b, strict=True)
    return mean_interval([at_equal_strength(curve_of(x, axes), curve_of(y, axes)) for x, y in pairs])


def claimed_pairs(records: Records) -> list[tuple[str, str]]:
    """Return which rows are said to keep identity better than which.

    IDS than DDS and CDS, each with the same attention; and DDS and IDS with the source's attention than without.
    """
    ids = [label for label in records if label.split(" + ")[0] == "IDS"]
    of_ids = [(label, label.replace("IDS", other)) for label in ids for other in ("DDS", "CDS")]
    with_attention = [label for label in records if label.startswith(("DDS + ", "IDS + "))]
    of_attention = [(label, label.split(" + ")[0]) for label in with_attention]
    return [pair for pair in of_ids + of_attention if pair[1] in records]


def identity_claim(records: Records, one: str, other: str, axes: Axes) -> Claim:
    """Decide whether a method keeps identity better than another where both edits have gone equally far."""
    gain = gain_at_equal_strength(records[one], records[other], axes)
    label = axes.identity_label
    evidence = (
        f"{label} at equal strength: {format_difference(gain)}, over {gain.n} edits that both take as far"
    )
    for figure, what in ((axes.identity, "at the end of each"), ("psnr", f"{COLUMNS['psnr']}, at the end")):
        end = paired_difference(*(final_figures(records[name], figure) for name in (one, other)))
        if end.n:
            evidence += f"; {what}: {format_difference(end)}"
    return Claim(
        f"{one} keeps identity better than {other} at equal edit strength", verdict_on(gain), evidence
    )


def verdict_on(difference: Estimate) -> Verdict:
    """Decide whether a difference is above zero."""
    verdicts: dict[int, Verdict] = {1: "holds", -1: "does not hold", 0: "not decided"}
    return verdicts[difference.sign]


def format_difference(estimate: Estimate, digits: int = 2) -> str:
    """Return a difference with its sign, and its interval if it has one.

    >>> format_difference(Estimate(0.5, -0.25, 1.25, 64)), format_difference(Estimate(math.nan, math.nan, math.nan, 0))
    ('+0.50 (-0.25 to +1.25)', '–')
    """
    if math.isnan(estimate.low):
        return f"{estimate.mean:+.{digits}f}" if estimate.n else "–"
    return f"{estimate.mean:+.{digits}f} ({estimate.low:+.{digits}f} to {estimate.high:+.{digits}f})"


def tradeoff(records: Records, axes: Axes, name: str = "identity-against-strength") -> Figure:
    """Plot identity against strength, means over the edits at each snapshot; a point if there is one snapshot."""
    lines, points = [], []
    for label, edits in records.items():
        snapshots = range(len(edits[0].snapshots))
        strength, identity = (
            [
                mean_interval([edit.snapshots[i].get(figure, math.nan) for edit in edits]).mean
                for i in snapshots
            ]
            for figure in (axes.strength, axes.identity)
        )
        if len(snapshots) > 1:
            lines.append((label, strength, identity))
        else:
            points.append((label, strength[0], identity[0]))
    labels = (axes.strength_label, axes.identity_label)
    return Figure(
        name,
        "Identity against edit strength, as the edits go on (means over all edits): up and to the right is better.",
        plot_lines("identity against strength", labels, lines, points),
    )


def gallery(records: Records, store: Store) -> Figure:
    """Show some edits of each kind: source, truth and each method's; below them the changes, and depths if any."""
    first = next(iter(records.values()))
    by_kind = sorted(range(len(first)), key=lambda index: first[index].kind)
    last = len(first) - 1
    chosen = sorted({by_kind[round(i * last / (GALLERY_EDITS - 1))] for i in range(GALLERY_EDITS)})
    rows = []
    for index in chosen:
        rows += _gallery_rows({label: edits[index] for label, edits in records.items()}, store)
    captions = "; ".join(f"“{first[i].captions[0]}” to “{first[i].captions[1]}”" for i in chosen)
    return Figure("gallery", f"From top to bottom: {captions}.", stack_rows(rows))


def _gallery_rows(edits: Mapping[str, EditRecord], store: Store) -> list[torch.Tensor]:
    """Return the rows of one image or scene, edited by each method."""
    first = next(iter(edits.values()))
    source = store.read_image(first.source)
    blank = torch.ones_like(source)
    known, below = {"source": source}, {"": blank}
    if first.truth:
        known["truth"] = store.read_image(first.truth)
        below["true change"] = difference(source, known["truth"])
    edited = {label: store.read_image(edit.edited) for label, edit in edits.items()}
    changes = {f"{label}: change": difference(source, image) for label, image in edited.items()}
    rows = [panel({**known, **edited}, height=96), panel({**below, **changes}, height=96)]
    if first.source_depth:
        depths = {"": blank} if first.truth else {}
        depths["depth"] = store.read_image(first.source_depth)
        depths |= {f"{label}: depth": store.read_image(edit.edited_depth) for label, edit in edits.items()}
        rows.append(panel(depths, height=96))
    return rows
