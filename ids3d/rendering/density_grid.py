"""A density that is interpolated on a grid: what a march on a CPU looks up by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DensityGrid:
    """density = softplus(value + shift) / unit, with the value interpolated from the nodes of a grid that fills a box.

    Attributes:
        table: (x * y * z, 1) the nodes' values, z fastest.
        resolution: (x, y, z).
        aabb: (6,) the box.
        core: (6,) the part of it where the nodes are `magnify` times as dense along each axis.
    """

    table: Tensor
    resolution: tuple[int, int, int]
    aabb: Tensor
    core: Tensor
    magnify: float
    shift: float
    unit: float

    def axes(self) -> Tensor:
        """For each axis (3, 5) how its coordinates become those of the grid; see `ids3d.rendering.loops.stretched`."""
        lower, upper, core_lower, core_upper = *self.aabb.view(2, 3), *self.core.view(2, 3)
        more = self.magnify - 1
        side = upper - lower + more * (core_upper.clamp(lower, upper) - core_lower)
        return torch.stack([lower, core_lower, core_upper, torch.full_like(lower, more), 1 / side], dim=1)

    def value_of(self, density: float) -> float:
        """Return the value in the table that stands for a density."""
        return (math.log(math.expm1(density * self.unit)) if density > 0 else -math.inf) - self.shift
