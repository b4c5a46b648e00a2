"""How far found cameras are from given ones, which are of other axes, origin and unit."""

from __future__ import annotations

import numpy as np


def distances(found: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Distances (n,) of camera centres (n, 3) after the best similarity (Umeyama 1991), over the given ones' extent.

    The extent is the diagonal of their bounding box.
    """
    a, b = found - found.mean(axis=0), given - given.mean(axis=0)
    left, sizes, right = np.linalg.svd(b.T @ a)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation, scale = (left * signs) @ right, (sizes * signs).sum() / (a**2).sum()
    return np.linalg.norm(scale * a @ rotation.T - b, axis=1) / np.linalg.norm(np.ptp(given, axis=0))
