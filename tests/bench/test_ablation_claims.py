"""What the ablation says of records whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ids3d.bench.ablation import Plan, _same_steps_claim, _truth_claim
from ids3d.bench.images import Axes

PLAN = Plan(iterations=(0, 1, 3, 5), scales=(1.0, 10.0))


def ended(figure: str, value: Callable[[int], float]) -> list[dict[str, Any]]:
    """Twelve edits that end with a figure."""
    rest = {"psnr": 20.0, "psnr_outside": 20.0, "strength": 0.5}
    return [{"snapshots": [{"share": 1.0, **rest, figure: value(i)}]} for i in range(12)]


@pytest.mark.parametrize(("gain", "said"), [(1.0, "holds"), (-1.0, "does not hold"), (0.0, "not decided")])
def test_after_the_same_steps(gain: float, said: str) -> None:
    """Edits differ among themselves by far more than N changes: pairing must see it all the same."""
    found = {
        f"N = {n}": ended("psnr_outside", lambda i, n=n: 20 + 3 * i + gain * min(n, 3) / 3)  # type: ignore[misc]
        for n in PLAN.iterations
    }
    claim = _same_steps_claim(found, PLAN, Axes.of(found))
    assert claim.verdict == said
    assert f"from 0 to 3: {gain:+.2f} (" in claim.evidence and "from 3 to 5: +0.00 (" in claim.evidence


def test_a_scale_is_too_large_where_it_ends_further_from_the_truth() -> None:
    near, far = ended("psnr", lambda i: 22 + i), ended("psnr", lambda i: 20 + i)
    assert _truth_claim({"λ = 1": near, "λ = 10": far}, PLAN)[0].verdict == "holds"
    assert _truth_claim({"λ = 1": far, "λ = 10": near}, PLAN)[0].verdict == "does not hold"


def test_without_a_truth_nothing_is_said_of_it() -> None:
    found = {
        name: [{"snapshots": [{"share": 1.0, "psnr_to_source": 20.0}]}] * 12 for name in ("λ = 1", "λ = 10")
    }
    assert _truth_claim(found, PLAN) == []
