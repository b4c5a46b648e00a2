"""Means with 95 % intervals, paired differences, and comparisons of two methods at equal edit strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 4000


@dataclass(frozen=True)
class Estimate:
    """A mean over n edits and its 95 % interval; nan where it is not defined."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below zero, 0 where it holds zero or is not defined."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def mean_interval(values: Sequence[float]) -> Estimate:
    """The mean of the finite values and its bootstrap interval (BCa, Efron 1987; the same each time).

    One value has no interval (low and high are nan); where all are equal, the interval is that value.
    """
    finite = np.asarray([v for v in values if math.isfinite(v)], dtype=float)
    if len(finite) < 2:
        mean = float(finite[0]) if len(finite) else math.nan
        return Estimate(mean, math.nan, math.nan, len(finite))
    mean = float(finite.mean())
    if np.ptp(finite) < 1e-12 * max(1.0, abs(mean)):
        return Estimate(mean, mean, mean, len(finite))
    interval = bootstrap(
        (finite,), np.mean, n_resamples=RESAMPLES, rng=np.random.default_rng(0), vectorized=True
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), len(finite))


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of a - b over edits, and its interval. Raises ValueError where they are not of the same edits."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values cannot be paired")
    return mean_interval([x - y for x, y in zip(a, b, strict=True)])


@dataclass(frozen=True)
class Curve:
    """How one edit went on by one method: identity against strength, as the edit grows.

    strength: (k,) how much of the edit is done.  identity: (k,) how well the rest was kept.
    """

    strength: tuple[float, ...]
    identity: tuple[float, ...]


def at_equal_strength(a: Curve, b: Curve, points: int = 16) -> float:
    """The mean of a's identity minus b's over the strengths that both reach; nan where there are none.

    An edit that is undone again has the identity of its way there: a strength counts when it is first reached. Between
    the snapshots of an edit, identity is taken to change linearly with strength.
    """
    (a_s, a_i), (b_s, b_i) = _rising(a), _rising(b)
    low, high = max(a_s[0], b_s[0]), min(a_s[-1], b_s[-1])
    if not high > low:
        return math.nan
    grid = np.linspace(low, high, points)
    return float(np.mean(np.interp(grid, a_s, a_i) - np.interp(grid, b_s, b_i)))


def _rising(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve at which a strength is reached that was not before."""
    strength, identity = np.asarray(curve.strength), np.asarray(curve.identity)
    before = np.concatenate([[-math.inf], np.maximum.accumulate(strength)[:-1]])
    new = strength > before
    return strength[new], identity[new]
