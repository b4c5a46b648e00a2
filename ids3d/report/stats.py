"""Means and shares with 95 % intervals, paired differences, and two methods compared at equal edit strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap

RESAMPLES = 4000


@dataclass(frozen=True)
class Estimate:
    """A mean of n values and its 95 % interval from `low` to `high`; nan where it is not defined."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def sign(self) -> int:
        """1 if the interval lies above zero, -1 if below, 0 if it holds zero or is not defined."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def mean_interval(values: Sequence[float]) -> Estimate:
    """Return the mean of the finite values and its bootstrap interval (BCa, Efron 1987), the same at each call.

    One value has no interval (low and high are nan). If all are equal, the interval is that value.
    """
    finite = np.asarray([v for v in values if math.isfinite(v)], dtype=float)
    if len(finite) < 2:
        mean = float(finite[0]) if len(finite) else math.nan
        return Estimate(mean, math.nan, math.nan, len(finite))
    mean = float(finite.mean())
    if np.ptp(finite) < 1e-12 * max(1.0, abs(mean)):
        return Estimate(mean, mean, mean, len(finite))
    rng = np.random.default_rng(0)
    result = bootstrap((finite,), np.mean, n_resamples=RESAMPLES, rng=rng, vectorized=True)
    interval = result.confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), len(finite))


def share_interval(successes: Sequence[bool]) -> Estimate:
    """Return the share of successes in [0, 1] and Wilson's interval (1927). Raises ValueError if there is no value."""
    n = len(successes)
    if not n:
        raise ValueError("no value has no share")
    result = binomtest(sum(successes), n)
    interval = result.proportion_ci(method="wilson")
    return Estimate(float(result.statistic), float(interval.low), float(interval.high), n)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Return the mean of a - b over edits, and its interval. Raises ValueError if the lengths differ."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values cannot be paired")
    return mean_interval([x - y for x, y in zip(a, b, strict=True)])


@dataclass(frozen=True)
class Curve:
    """How one edit by one method went on: identity against strength at k snapshots.

    Attributes:
        strength: how much of the edit is done.
        identity: how well the rest is kept.
    """

    strength: tuple[float, ...]
    identity: tuple[float, ...]


def at_equal_strength(a: Curve, b: Curve, points: int = 16) -> float:
    """Return the mean of a's identity minus b's over the strengths that both reach; nan if there are none.

    A strength counts when it is first reached, so an edit that is undone again has the identity of its way there.
    Between snapshots, identity is taken to change linearly with strength.

    Args:
        points: strengths, evenly spaced, at which the two are compared.
    """
    (a_s, a_i), (b_s, b_i) = _rising(a), _rising(b)
    low, high = max(a_s[0], b_s[0]), min(a_s[-1], b_s[-1])
    if not high > low:
        return math.nan
    grid = np.linspace(low, high, points)
    return float(np.mean(np.interp(grid, a_s, a_i) - np.interp(grid, b_s, b_i)))


def _rising(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Return the strengths and identities of the points that reach further than all before them."""
    strength, identity = np.asarray(curve.strength), np.asarray(curve.identity)
    before = np.concatenate([[-math.inf], np.maximum.accumulate(strength)[:-1]])
    new = strength > before
    return strength[new], identity[new]
