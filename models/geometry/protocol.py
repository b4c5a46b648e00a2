"""What a geometry offers: a field of density and colour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ids3d.rendering import DensityGrid
from ids3d.scene import SceneBounds


@dataclass(frozen=True)
class ParameterGroups:
    """A field's parameters.

    Attributes:
        density: those that decide where something is.
        appearance: those that decide how it looks.
        layout: those that are the scene's own, such as how far away its surroundings are: a reconstruction finds them,
            and no edit moves them.
    """

    density: list[nn.Parameter]
    appearance: list[nn.Parameter]
    layout: list[nn.Parameter] = field(default_factory=list)


@dataclass(frozen=True)
class Smoothing:
    """How much a field's roughness counts in what is minimised: its density's and its appearance's."""

    density: float
    appearance: float


class Geometry(Protocol):
    """An nn.Module: a field of density and colour within a scene's bounds, that can be trained."""

    def __init__(self, cfg: Any, bounds: SceneBounds) -> None: ...

    def density(self, positions: Tensor) -> Tensor:
        """Return density (n,) >= 0, per world unit, at positions (n, 3) in world units; 0 outside the box."""
        ...

    def __call__(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return density (n,) as above, and colour (n, 3) in [0, 1] seen along unit directions (n, 3)."""
        ...

    def density_grid(self) -> DensityGrid | None:
        """Return what `density` is interpolated from, which is marched through faster on a CPU; None: no such grid."""
        ...

    def detail(self) -> float | None:
        """Return the length of the finest detail that the field can hold, world units; None: it has no such length."""
        ...

    def parameter_groups(self) -> ParameterGroups:
        """Return the field's parameters. They are new ones whenever `refine` returned True."""
        ...

    def smooth(self, weights: Smoothing, generator: torch.Generator | None) -> Tensor:
        """Add to the parameters' gradients those of the field's weighted roughness, and return that, a scalar.

        The roughness is that at places which the generator draws, or everywhere for None. Called after a loss's
        backward pass: a gradient of few places then costs no pass over all of them.
        """
        ...

    def refine(self, share: float) -> bool:
        """Bring the field to a share in (0, 1] of its full resolution. Returns whether its parameters are new ones.

        A field without a resolution returns False.
        """
        ...
