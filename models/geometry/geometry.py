"""What a renderer needs of a scene's representation."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class Geometry(Protocol):
    """A field of density and colour in a box, that can be trained, and be refined while it is."""

    resolution: tuple[int, int, int]
    """Nodes along x, y and z."""

    def density(self, positions: Tensor) -> Tensor:
        """Density (n,) >= 0, one over world units, at positions (n, 3) in world units; 0 outside the box."""
        ...

    def __call__(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density (n,) as above, and colour (n, 3) in [0, 1] seen along unit directions (n, 3)."""
        ...

    def density_parameters(self) -> list[nn.Parameter]:
        """What decides where something is."""
        ...

    def appearance_parameters(self) -> list[nn.Parameter]:
        """What decides how it looks."""
        ...

    def resample(self, voxels: int) -> None:
        """Give the field about as many nodes. Its parameters are new ones: an optimiser must be made anew."""
        ...

    def total_variation(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Mean squared differences of neighbours, of density and of appearance, in a part that the generator draws."""
        ...
