"""Slow, obvious references: loops over rays and samples, in double precision."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np


def crossing(o: np.ndarray, d: np.ndarray, box: np.ndarray) -> tuple[float, float] | None:
    """Distances at which one ray enters and leaves one box, None where it misses or the box is behind it."""
    t_in, t_out = -math.inf, math.inf
    for axis in range(3):
        if d[axis] == 0:
            if not box[axis] <= o[axis] <= box[3 + axis]:
                return None
            continue
        near, far = sorted([(box[axis] - o[axis]) / d[axis], (box[3 + axis] - o[axis]) / d[axis]])
        t_in, t_out = max(t_in, near), min(t_out, far)
    return (t_in, t_out) if t_in <= t_out and t_out > 0 else None


def cell_at(point: np.ndarray, box: np.ndarray, binary: np.ndarray) -> bool:
    """Whether the cell that holds the point is occupied."""
    cell = [
        min(max(math.floor((p - lo) / (hi - lo) * n), 0), n - 1)
        for p, lo, hi, n in zip(point, box[:3], box[3:], binary.shape, strict=True)
    ]
    return bool(binary[tuple(cell)])


@dataclass
class Marched:
    """The samples of one ray."""

    t_starts: list[float]
    t_ends: list[float]


def march_equal_steps(
    o: np.ndarray,
    d: np.ndarray,
    binaries: np.ndarray,
    boxes: np.ndarray,
    near: float,
    far: float,
    step: float,
) -> Marched:
    """Every step from the near plane on: kept where its midpoint's innermost box says so. Boxes nested, inner first."""
    crossings = [crossing(o, d, box) for box in boxes]
    end = min(max((c[1] for c in crossings if c), default=-math.inf), far)
    samples, k = Marched([], []), 0
    while True:
        t = near + k * step
        middle = t + step / 2
        if middle >= end:
            return samples
        for c, box, binary in zip(crossings, boxes, binaries, strict=True):
            if c and c[0] <= middle < c[1]:
                if cell_at(o + middle * d, box, binary):
                    samples.t_starts.append(t)
                    samples.t_ends.append(t + step)
                break
        k += 1


def march_cells(
    o: np.ndarray,
    d: np.ndarray,
    binaries: np.ndarray,
    boxes: np.ndarray,
    near: float,
    far: float,
    step: float,
    cone: float,
) -> Marched:
    """nerfacc's kernel for nested boxes: cell after cell, the step held while an empty cell is crossed."""
    crossings = [crossing(o, d, box) for box in boxes]
    faces = sorted({t for c in crossings if c for t in c} | {near, far})
    faces = [t for t in faces if near <= t <= far]
    samples, t, first = Marched([], []), near, True

    def step_at(distance: float) -> float:
        return max(step, cone * distance)

    def skip(t: float, target: float) -> float:
        held = step_at(t)
        while t + held / 2 < target:
            t += held
        return t

    for start, end in itertools.pairwise(faces):
        holders = [i for i, c in enumerate(crossings) if c and c[0] <= (start + end) / 2 < c[1]]
        if not holders:
            continue
        box, binary = boxes[holders[0]], binaries[holders[0]]
        if first:
            t, first = skip(t, start), False
        for a, b in itertools.pairwise(cell_edges(o, d, box, binary.shape, start, end)):
            if cell_at(o + (a + b) / 2 * d, box, binary):
                while t + step_at(t) / 2 < b:
                    samples.t_starts.append(t)
                    samples.t_ends.append(t + step_at(t))
                    t += step_at(t)
            else:
                t = skip(t, b)
    return samples


def cell_edges(
    o: np.ndarray, d: np.ndarray, box: np.ndarray, resolution: tuple[int, ...], start: float, end: float
) -> list[float]:
    """Distances between start and end, both included, at which one ray goes from one cell of a box to the next."""
    edges = [start, end]
    for axis, n in enumerate(resolution):
        for i in range(n + 1):
            if d[axis] != 0:
                face = box[axis] + (box[3 + axis] - box[axis]) * i / n
                edges.append((face - o[axis]) / d[axis])
    return sorted(t for t in edges if start <= t <= end)


def scan(values: list[float], product: bool, inclusive: bool) -> list[float]:
    """Running sum or product of one segment."""
    result, total = [], 1.0 if product else 0.0
    for value in values:
        after = total * value if product else total + value
        result.append(after if inclusive else total)
        total = after
    return result


def composite(
    sigmas: list[float], deltas: list[float], values: list[list[float]]
) -> tuple[list[float], list[float], list[float], list[float]]:
    """One ray: transmittances, alphas, weights, and the weighted sum of the values."""
    thickness, trans, alphas, weights = 0.0, [], [], []
    for sigma, delta in zip(sigmas, deltas, strict=True):
        trans.append(math.exp(-thickness))
        alphas.append(1 - math.exp(-sigma * delta))
        weights.append(trans[-1] * alphas[-1])
        thickness += sigma * delta
    total = [
        sum(w * v[c] for w, v in zip(weights, values, strict=True))
        for c in range(len(values[0]) if values else 0)
    ]
    return trans, alphas, weights, total
