"""What the studies say of records whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from ids3d.bench.ablation import AblationConfig, little_more, same_steps_claim, truth_claims
from ids3d.bench.comparison import (
    WITH_TRUTH,
    WITHOUT_TRUTH,
    choose_axes,
    claimed_pairs,
    identity_claim,
    summary_table,
)
from ids3d.bench.edits import EditRecord
from ids3d.report.page import Verdict
from ids3d.report.stats import Estimate

CONFIG = AblationConfig(iterations=(0, 1, 3, 5), scales=(1.0, 10.0))


def record(*snapshots: dict[str, float]) -> EditRecord:
    return EditRecord("x", "", ("", ""), 1.0, snapshots, "", "")


def ended(figure: str, value: Callable[[int], float]) -> list[EditRecord]:
    """Twelve edits that end with a figure."""
    rest = {"psnr": 20.0, "psnr_outside": 20.0, "strength": 0.5}
    return [record({**rest, figure: value(i)}) for i in range(12)]


@pytest.mark.parametrize(("gain", "said"), [(1.0, "holds"), (-1.0, "does not hold"), (0.0, "not decided")])
def test_after_the_same_steps(gain: float, said: str) -> None:
    """Edits differ among themselves by far more than N changes: pairing must see it all the same."""
    records = {
        f"N = {n}": ended("psnr_outside", lambda i, n=n: 20 + 3 * i + gain * min(n, 3) / 3)  # type: ignore[misc]
        for n in CONFIG.iterations
    }
    claim = same_steps_claim(records, CONFIG, WITH_TRUTH)
    assert claim.verdict == said
    assert f"from 0 to 3: {gain:+.2f} (" in claim.evidence and "from 3 to 5: +0.00 (" in claim.evidence


@pytest.mark.parametrize(
    ("whole", "rest", "said"),
    [
        ((1.0, 0.8, 1.2), (0.1, 0.0, 0.2), "holds"),
        ((1.0, 0.8, 1.2), (0.8, 0.7, 0.9), "does not hold"),
        ((1.0, 0.8, 1.2), (0.3, 0.0, 0.6), "not decided"),  # half of the whole lies within the interval
        ((1.0, -0.1, 2.1), (0.1, 0.0, 0.2), "not decided"),  # little more than what?
    ],
)
def test_little_more(
    whole: tuple[float, float, float], rest: tuple[float, float, float], said: Verdict
) -> None:
    assert little_more(Estimate(*whole, 12), Estimate(*rest, 12)) == said


def test_a_scale_is_too_large_where_it_ends_further_from_the_truth() -> None:
    near, far = ended("psnr", lambda i: 22 + i), ended("psnr", lambda i: 20 + i)
    assert truth_claims({"λ = 1": near, "λ = 10": far}, CONFIG)[0].verdict == "holds"
    assert truth_claims({"λ = 1": far, "λ = 10": near}, CONFIG)[0].verdict == "does not hold"


def test_without_a_truth_nothing_is_said_of_it() -> None:
    records = {name: [record({"psnr_to_source": 20.0})] * 12 for name in ("λ = 1", "λ = 10")}
    assert truth_claims(records, CONFIG) == []
    assert choose_axes(records) == WITHOUT_TRUTH
    assert choose_axes({**records, "DDS": ended("psnr", lambda i: 20.0)}) == WITH_TRUTH


def test_the_claim_of_equal_strength_sees_through_editing_less() -> None:
    """A method that edits less but on the same curve is not said to keep identity better; one on a better curve is."""

    def edits(reach: float, lift: float) -> list[EditRecord]:
        strengths = [reach * k / 4 for k in range(1, 5)]
        return [
            record(*({"strength": s, "psnr_outside": 30 + lift - 10 * s + 0.1 * i} for s in strengths))
            for i in range(12)
        ]

    claims = [
        identity_claim({"IDS": edits(0.5, lift), "DDS": edits(1.0, 0.0)}, "IDS", "DDS", WITH_TRUTH)
        for lift in (0.0, 1.0, -1.0)
    ]
    assert [claim.verdict for claim in claims] == ["not decided", "holds", "does not hold"]


def test_each_claim_compares_rows_that_differ_in_one_thing() -> None:
    """IDS with rivals of the same attention, and a method with attention with itself without."""
    labels = ("SDS", "DDS", "DDS + cross+self", "CDS + cross+self", "IDS", "IDS + cross+self", "P2P")
    assert claimed_pairs({label: [] for label in labels}) == [
        ("IDS", "DDS"),
        ("IDS + cross+self", "DDS + cross+self"),
        ("IDS + cross+self", "CDS + cross+self"),
        ("DDS + cross+self", "DDS"),
        ("IDS + cross+self", "IDS"),
    ]
    assert claimed_pairs({"P2P": [], "IDS + cross": []}) == []


def test_the_evidence_says_what_is_nearer_to_the_truth() -> None:
    near, far = ended("psnr", lambda i: 22.0 + 0.1 * i), ended("psnr", lambda i: 20.0 + 0.1 * i)
    claim = identity_claim({"IDS": near, "DDS": far}, "IDS", "DDS", WITH_TRUTH)
    assert claim.evidence.endswith("PSNR to the true edit, dB, at the end: +2.00 (+2.00 to +2.00)")


def test_the_table_holds_the_last_snapshots_and_what_is_defined_for_some() -> None:
    records = {
        "A": [record({"psnr": 1.0}, {"psnr": 20.0}), record({"psnr": 1.0}, {"psnr": 22.0})],
        "B": [record({"iou": 0.5}), record({})],
    }
    table = summary_table(records, "some LPIPS", "images")
    assert table.columns == ("PSNR to the true edit, dB", "IoU of the change", "seconds per edit")
    means = {
        label: [cell.mean for cell in cells if isinstance(cell, Estimate)] for label, cells in table.rows
    }
    assert means["A"][0] == 21.0 and math.isnan(means["A"][1]) and means["A"][2] == 1.0
    assert math.isnan(means["B"][0]) and means["B"][1] == 0.5
    assert "over 2 edits" in table.note and "LPIPS is some LPIPS." in table.note
