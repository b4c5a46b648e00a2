"""The shapes of the tabletop world as implicit functions in numpy, and a slow march to where rays meet them."""

from __future__ import annotations

import math

import numpy as np

from ids3d.tabletop.scene import Object

STEPS = 400


def implicit(thing: Object, points: np.ndarray) -> np.ndarray:
    """Below zero inside the object, above zero outside, for world points (..., 3) in double precision."""
    angle = math.radians(thing.turn)
    turn = np.array(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    )
    x, y, z = np.moveaxis(
        (points - [thing.x, thing.y, 0.0]) @ turn, -1, 0
    )  # a row times the turn: turned back
    s, r = thing.size, np.hypot(x, y)
    if thing.shape == "sphere":
        return np.sqrt(x * x + y * y + (z - s) ** 2) - s
    if thing.shape == "cube":
        return np.maximum(np.maximum(abs(x), abs(y)), abs(z - 0.75 * s)) - 0.75 * s
    if thing.shape == "cylinder":
        return np.maximum(r - 0.78 * s, abs(z - 0.95 * s) - 0.95 * s)
    return np.maximum(r - 0.3 * (3.3 * s - z), -z)


def first_hit(
    thing: Object, origins: np.ndarray, directions: np.ndarray, far: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n,) to the first hit of rays (n, 3) that start outside, inf for none, and how much of each ray (n,) is
    inside: the march can miss what is thinner than its step, far / STEPS."""
    edges = np.linspace(0, far, STEPS + 1)
    inside = implicit(thing, origins[:, None] + edges[:, None] * directions[:, None]) < 0
    first = inside.argmax(axis=1)
    hit = inside.any(axis=1)
    low, high = edges[np.maximum(first - 1, 0)], edges[first]
    for _ in range(50):
        middle = (low + high) / 2
        within = implicit(thing, origins + middle[:, None] * directions) < 0
        low, high = np.where(within, low, middle), np.where(within, middle, high)
    return np.where(hit, high, np.inf), inside.sum(axis=1) * far / STEPS


def normal(thing: Object, points: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences of the implicit function (n, 3), of unit length."""
    offsets = step * np.eye(3)
    ahead = np.stack([implicit(thing, points + o) for o in offsets], -1)
    gradient = (ahead - np.stack([implicit(thing, points - o) for o in offsets], -1)) / (2 * step)
    return gradient / np.linalg.norm(gradient, axis=-1, keepdims=True)
