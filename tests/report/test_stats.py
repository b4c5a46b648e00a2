"""Intervals against what is known of normal samples; comparisons at equal strength against curves drawn by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ids3d.report.stats import (
    Curve,
    Estimate,
    at_equal_strength,
    mean_interval,
    paired_difference,
    share_interval,
)


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    """95 % of them: of 200, 190 ± 4 standard deviations."""
    rng = np.random.default_rng(0)
    estimates = [mean_interval(list(rng.normal(3.0, 2.0, 40))) for _ in range(200)]
    held = sum(e.low <= 3.0 <= e.high for e in estimates)
    assert 176 <= held <= 199
    assert np.mean([e.high - e.low for e in estimates]) == pytest.approx(
        2 * 1.96 * 2 / math.sqrt(40), rel=0.1
    )


def test_a_difference_is_paired() -> None:
    """Edits that differ much, methods that differ little: only pairs show it."""
    rng = np.random.default_rng(1)
    edits = rng.normal(20, 5, 30)
    a, b = list(edits + 0.5 + rng.normal(0, 0.2, 30)), list(edits + rng.normal(0, 0.2, 30))
    assert paired_difference(a, b).sign == 1
    assert paired_difference(b, a).sign == -1
    alone = mean_interval(a), mean_interval(b)
    assert alone[0].low < alone[1].high
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(a, b[:-1])


def test_what_has_no_interval() -> None:
    assert mean_interval([1.0, 1.0, math.nan, 1.0]) == Estimate(1.0, 1.0, 1.0, 3)
    one = mean_interval([2.0])
    assert one.mean == 2.0 and math.isnan(one.low) and one.sign == 0
    assert math.isnan(mean_interval([]).mean)


@pytest.mark.parametrize(("right", "of"), [(0, 10), (10, 10), (231, 256), (3, 7)])
def test_the_ends_of_a_shares_interval_solve_wilsons_equation(right: int, of: int) -> None:
    """(share - p)² = z² p (1 - p) / n at both ends p, with the normal distribution's 97.5 % quantile z."""
    estimate = share_interval([True] * right + [False] * (of - right))
    assert (estimate.mean, estimate.n) == (right / of, of)
    z = 1.959963984540054
    for p in (estimate.low, estimate.high):
        assert (right / of - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / of, abs=1e-9)
    assert estimate.low < estimate.high


def test_nothing_has_no_share() -> None:
    with pytest.raises(ValueError, match="no value"):
        share_interval([])


def test_equal_strength_by_hand() -> None:
    a = Curve((0.0, 0.5, 1.0), (40.0, 30.0, 20.0))  # 40 - 20 s
    b = Curve((0.0, 0.8), (40.0, 16.0))  # 40 - 30 s
    assert at_equal_strength(a, b) == pytest.approx(10 * 0.4, abs=1e-9)  # the mean of 10 s over 0 to 0.8
    assert at_equal_strength(b, a) == pytest.approx(-4.0, abs=1e-9)


def test_an_edit_that_is_undone_counts_where_it_first_got() -> None:
    a = Curve((0.0, 0.6, 0.3, 0.9), (40.0, 30.0, 35.0, 25.0))
    b = Curve((0.0, 0.6, 0.9), (40.0, 30.0, 25.0))
    assert at_equal_strength(a, b) == pytest.approx(0.0, abs=1e-9)


def test_methods_that_share_no_strength() -> None:
    assert math.isnan(at_equal_strength(Curve((0.0, 0.1), (9.0, 9.0)), Curve((0.2, 0.3), (9.0, 9.0))))
    assert math.isnan(at_equal_strength(Curve((0.2,), (9.0,)), Curve((0.2,), (9.0,))))
