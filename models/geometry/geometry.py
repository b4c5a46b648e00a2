"""What a renderer needs of a scene's representation."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Geometry(Protocol):
    """A field of density and colour in a box."""

    def density(self, positions: Tensor) -> Tensor:
        """Density (n,) >= 0, one over world units, at positions (n, 3) in world units; 0 outside the box."""
        ...

    def __call__(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density (n,) as above, and colour (n, 3) in [0, 1] seen along unit directions (n, 3)."""
        ...
