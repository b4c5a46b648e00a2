"""Loops over points and the levels of a hash grid for the CPU, compiled by Numba: what tiny-cuda-nn is on CUDA."""

from __future__ import annotations

from typing import Any

from ids3d.rendering.loops import Array, compiled


@compiled
def row_of(i: int, j: int, k: int, side: int, size: int) -> int:
    """Return the row of a level's table that a node lies in: its own, or by the hash where not each has one.

    Modulo size, without a division: a number for each node is less than twice of it, and what is shared a power of two.
    """
    if side * side * side <= size:
        row = i + side * (j + side * k)
        return row - size if row >= size else row
    return (i ^ (j * 2_654_435_761) ^ (k * 805_459_861)) & (size - 1)


@compiled
def cell(x: Any, side: int) -> tuple[int, Any]:
    """Return the node before x in [0, 1], node i of `side` at (i - 1/2) / (side - 1), and the share of the next."""
    at = x * type(x)(side - 1) + type(x)(0.5)
    first = int(at)
    return first, at - type(x)(first)


@compiled
def corner_of(
    n: int, i: int, j: int, k: int, u: Any, v: Any, w: Any, side: int, size: int
) -> tuple[int, Any]:
    """Return the row of the n-th of 8 corners of the cell from node (i, j, k), and its weight at shares (u, v, w)."""
    a, b, c = n >> 2, (n >> 1) & 1, n & 1
    one = type(u)(1)
    weight = (u if a else one - u) * (v if b else one - v) * (w if c else one - w)
    return row_of(i + a, j + b, k + c, side, size), weight


@compiled
def encode(
    table: Array,
    positions: Array,
    starts: Array,
    sides: Array,
    sizes: Array,
    first: int,
    last: int,
    out: Array,
) -> None:
    """Interpolate, for points [first, last), each level's features: out (n, levels * features)."""
    features = table.shape[1]
    for p in range(first, last):
        for level in range(len(sides)):
            side, size = sides[level], sizes[level]
            i, u = cell(positions[p, 0], side)
            j, v = cell(positions[p, 1], side)
            k, w = cell(positions[p, 2], side)
            at = level * features
            for f in range(features):
                out[p, at + f] = 0
            for corner in range(8):
                row, weight = corner_of(corner, i, j, k, u, v, w, side, size)
                row += starts[level]
                for f in range(features):
                    out[p, at + f] += weight * table[row, f]


@compiled
def spread(
    grad: Array,
    positions: Array,
    starts: Array,
    sides: Array,
    sizes: Array,
    first: int,
    last: int,
    out: Array,
) -> None:
    """Add to out (rows, features), a table's gradient, what `encode` passes back, for levels [first, last)."""
    features = out.shape[1]
    for level in range(first, last):
        side, size = sides[level], sizes[level]
        at = level * features
        for p in range(len(positions)):
            i, u = cell(positions[p, 0], side)
            j, v = cell(positions[p, 1], side)
            k, w = cell(positions[p, 2], side)
            for corner in range(8):
                row, weight = corner_of(corner, i, j, k, u, v, w, side, size)
                row += starts[level]
                for f in range(features):
                    out[row, f] += weight * grad[p, at + f]
