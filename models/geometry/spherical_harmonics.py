"""Real spherical harmonics, for colours that depend on the direction of view."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def basis(directions: Tensor, degree: int) -> Tensor:
    """Evaluate the real spherical harmonics up to a degree, each divided by Y_0 = sqrt(1 / 4π).

    Scaled so, the first is 1, and for degree 0 a coefficient is the value itself. The others have mean square 1
    over the sphere, and are pairwise orthogonal. Order: 1; y, z, x; xy, yz, 3z² - 1, xz, x² - y² (scaled).

    Args:
        directions: (n, 3) of unit length.
        degree: 0, 1 or 2.

    Returns:
        (n, (degree + 1)²), differentiable in the directions.
    """
    if degree not in (0, 1, 2):
        raise ValueError(f"spherical harmonics of degree {degree}: 0, 1 and 2 are known")
    x, y, z = directions.unbind(-1)
    terms = [torch.ones_like(x)]
    if degree >= 1:
        root3 = math.sqrt(3)
        terms += [root3 * y, root3 * z, root3 * x]
    if degree >= 2:
        root15 = math.sqrt(15)
        terms += [
            root15 * x * y,
            root15 * y * z,
            math.sqrt(5) / 2 * (3 * z * z - 1),
            root15 * x * z,
            root15 / 2 * (x * x - y * y),
        ]
    return torch.stack(terms, dim=-1)
