"""Loops over rays and their samples for the CPU, compiled by Numba: what nerfacc's kernels are on CUDA.

They let go of the interpreter, so that `in_parts` can share the rays out among threads; what comes out does not depend
on how many there are. Compiled code is kept on the disk: only the first run after an installation waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numba
import numpy as np
import torch

Array = np.ndarray[Any, Any]
ONE = np.uint64(1)

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a loop when it is first called, for the types that it is called with."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # nowhere to keep it: each process compiles it anew
        return numba.njit(function, **options)


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="loops")


def in_parts(do: Callable[[int, int], object], n: int, least: int = 1024) -> None:
    """Call do(first, last) for the parts of range(n), one for each of PyTorch's threads, at once.

    Args:
        least: no part is smaller.
    """
    parts = max(1, min(torch.get_num_threads(), n // least))
    if parts == 1:
        do(0, n)
        return
    first, *others = pairwise(n * i // parts for i in range(parts + 1))
    running = [_threads(parts - 1).submit(do, a, b) for a, b in others]
    do(*first)
    for done in running:
        done.result()


@compiled
def steps_within(
    origin: Array, direction: Array, aabbs: Array, near: float, far: float, step: float
) -> tuple[int, int]:
    """Find the steps [first, last) of a ray whose midpoints lie between its first entry of a box and its last exit."""
    begin, end = math.inf, -math.inf
    for box in aabbs:
        enter, leave = -math.inf, math.inf
        for axis in range(3):
            lower, upper = box[axis] - origin[axis], box[3 + axis] - origin[axis]
            if direction[axis] != 0:
                a, b = lower / direction[axis], upper / direction[axis]
                enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
            elif lower > 0 or upper < 0:
                enter = math.inf
        if enter <= leave and leave > 0:
            begin, end = min(begin, enter), max(end, leave)
    begin, end = max(begin, near), min(end, far)
    if not begin < end:
        return 0, 0
    return max(0, math.ceil((begin - near) / step - 0.5)), math.ceil((end - near) / step - 0.5)


@compiled
def is_occupied(p: Any, q: Any, r: Any, binaries: Array, aabbs: Array) -> bool:
    """Tell whether a point is in an occupied cell: of the first box that holds it; without one, of the last."""
    levels, x, y, z = binaries.shape
    for level in range(levels):
        box = aabbs[level]
        u = (p - box[0]) / (box[3] - box[0])
        v = (q - box[1]) / (box[4] - box[1])
        w = (r - box[2]) / (box[5] - box[2])
        if level == levels - 1 or (0 <= u <= 1 and 0 <= v <= 1 and 0 <= w <= 1):
            i, j, k = int(u * x), int(v * y), int(w * z)
            return binaries[level, min(max(i, 0), x - 1), min(max(j, 0), y - 1), min(max(k, 0), z - 1)]
    return False


@compiled
def march_lattice(
    origins: Array,
    directions: Array,
    near: Array,
    far: Array,
    binaries: Array,
    aabbs: Array,
    step: Any,
    first_ray: int,
    last_ray: int,
    counts: Array,
    found: Array,
) -> None:
    """Note in found[ray] the occupied steps of each ray's lattice near + k * step, and in counts[ray] their number."""
    half = step / 2
    for ray in range(first_ray, last_ray):
        o, d, n = origins[ray], directions[ray], 0
        first, last = steps_within(o, d, aabbs, near[ray], far[ray], step)
        for k in range(first, last):
            t = near[ray] + k * step + half
            if is_occupied(o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2], binaries, aabbs):
                found[ray, n] = k
                n += 1
        counts[ray] = n


@compiled
def cell_of(x: Any, last: Any) -> tuple[int, Any, Any]:
    """Return the cell around x in [0, 1], of `last` cells side by side, and the weights of its two nodes."""
    scaled = min(x * last, last)
    if not scaled > 0:  # NaN too: it must not become an index
        scaled = last - last
    i = min(int(scaled), int(last) - 1)
    upper = type(x)(scaled - i)
    return i, type(x)(1) - upper, upper


@compiled
def stretched(x: Any, axis: Array) -> Any:
    """Map a coordinate of the box to [0, 1]; `axis` as for `march_seen`."""
    return (x - axis[0] + axis[3] * (min(max(x, axis[1]), axis[2]) - axis[1])) * axis[4]


@compiled
def march_seen(
    origins: Array,
    directions: Array,
    near: Array,
    far: Array,
    binaries: Array,
    aabbs: Array,
    step: Any,
    table: Array,
    resolution: tuple[int, int, int],
    axes: Array,
    shift: Any,
    thickness: Any,
    least_value: Any,
    most_passed: Any,
    first_ray: int,
    last_ray: int,
    counts: Array,
    found: Array,
) -> None:
    """As `march_lattice`, but only steps that can be seen, by a density on a grid; see `DensityGrid`.

    Args:
        axes: (3, 5) for each: the box's lower and the core's lower and upper ends, how much more dense it is there, and
            one over the stretched box's side.
        thickness: of a step, of density 1.
        least_value: of the table, for a step to be noted.
        most_passed: the optical thickness after which a ray ends.
    """
    half = step / 2
    x, y, z = resolution
    real = table.dtype.type
    ends, one = (real(x - 1), real(y - 1), real(z - 1)), real(1)
    for ray in range(first_ray, last_ray):
        o, d, n, passed = origins[ray], directions[ray], 0, real(0)
        first, last = steps_within(o, d, aabbs, near[ray], far[ray], step)
        for step_number in range(first, last):
            t = near[ray] + step_number * step + half
            p, q, r = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
            if not is_occupied(p, q, r, binaries, aabbs):
                continue
            i, a, u = cell_of(stretched(p, axes[0]), ends[0])
            j, b, v = cell_of(stretched(q, axes[1]), ends[1])
            k, c, w = cell_of(stretched(r, axes[2]), ends[2])
            at, deeper = (i * y + j) * z + k, y * z
            low = b * (c * table[at, 0] + w * table[at + 1, 0]) + v * (
                c * table[at + z, 0] + w * table[at + z + 1, 0]
            )
            at += deeper
            high = b * (c * table[at, 0] + w * table[at + 1, 0]) + v * (
                c * table[at + z, 0] + w * table[at + z + 1, 0]
            )
            value = a * low + u * high
            if value < least_value:
                continue
            found[ray, n] = step_number
            n += 1
            raised = value + shift
            passed += thickness * (raised if raised > 20 else math.log(one + math.exp(raised)))
            if passed > most_passed:
                break
        counts[ray] = n


@compiled
def pack(
    found: Array, starts: Array, counts: Array, first_ray: int, last_ray: int, steps: Array, rays: Array
) -> None:
    """Lay the steps found of rays one after the other, each with its ray's number."""
    for ray in range(first_ray, last_ray):
        for n in range(counts[ray]):
            steps[starts[ray] + n] = found[ray, n]
            rays[starts[ray] + n] = ray


@compiled
def running_sums(
    inputs: Array, starts: Array, counts: Array, backwards: bool, own: bool, a: int, b: int, out: Array
) -> None:
    """Sum each segment's entries in [a, b) from its first one on, or from its last; with the `own` entry or without."""
    for segment in range(a, b):
        total = inputs.dtype.type(0)
        for k in range(counts[segment]):
            i = starts[segment] + (counts[segment] - 1 - k if backwards else k)
            if own:
                total += inputs[i]
                out[i] = total
            else:
                out[i] = total
                total += inputs[i]


@compiled
def interpolate(
    table: Array, positions: Array, resolution: tuple[int, int, int], first: int, last: int, values: Array
) -> None:
    """Interpolate a table (x * y * z, channels) at the positions [first, last) of (n, 3) in [0, 1]."""
    x, y, z = resolution
    real = positions.dtype.type
    ends = real(x - 1), real(y - 1), real(z - 1)
    channels = table.shape[1]
    # Numbers without a sign, which need not be looked at whether they count from the end.
    nodes, out, beside = table.reshape(-1), values.reshape(-1), np.uint64(channels)
    for n in range(first, last):
        i, a, u = cell_of(positions[n, 0], ends[0])
        j, b, v = cell_of(positions[n, 1], ends[1])
        k, c, w = cell_of(positions[n, 2], ends[2])
        p = np.uint64(((i * y + j) * z + k) * channels)
        q, r, s = (
            p + np.uint64(z * channels),
            p + np.uint64(y * z * channels),
            p + np.uint64((y + 1) * z * channels),
        )
        ab, av, ub, uv = a * b, a * v, u * b, u * v
        at = np.uint64(n * channels)
        for _ in range(channels):
            low = ab * (c * nodes[p] + w * nodes[p + beside]) + av * (c * nodes[q] + w * nodes[q + beside])
            low += ub * (c * nodes[r] + w * nodes[r + beside])
            out[at] = low + uv * (c * nodes[s] + w * nodes[s + beside])
            at, p, q, r, s = at + ONE, p + ONE, q + ONE, r + ONE, s + ONE


@compiled
def spread(
    grad: Array,
    positions: Array,
    resolution: tuple[int, int, int],
    part: int,
    parts: int,
    table_grad: Array,
) -> None:
    """Add to a table's gradient that of the values interpolated, in its planes i with i // 4 % parts == part."""
    x, y, z = resolution
    real = positions.dtype.type
    ends = real(x - 1), real(y - 1), real(z - 1)
    channels = grad.shape[1]
    given, nodes, beside = grad.reshape(-1), table_grad.reshape(-1), np.uint64(channels)
    for n in range(len(positions)):
        i, a, u = cell_of(positions[n, 0], ends[0])
        low, high = i // 4 % parts == part, (i + 1) // 4 % parts == part
        if not (low or high):
            continue
        j, b, v = cell_of(positions[n, 1], ends[1])
        k, c, w = cell_of(positions[n, 2], ends[2])
        row = ((i * y + j) * z + k) * channels
        for corner in range(4):
            if not (high if corner // 2 else low):
                continue
            weight = (u if corner // 2 else a) * (v if corner % 2 else b)
            here, there = c * weight, w * weight
            at = np.uint64(row + ((corner // 2) * y + corner % 2) * z * channels)
            value = np.uint64(n * channels)
            for _ in range(channels):
                nodes[at] += here * given[value]
                nodes[at + beside] += there * given[value]
                at, value = at + ONE, value + ONE
