"""What a renderer offers, and what it returns: all that the systems know of how a scene is represented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ids3d.cameras import Cameras, Rays
from ids3d.models.geometry.protocol import Geometry, ParameterGroups, Smoothing
from ids3d.rendering import Samples, distortion
from ids3d.scene import SceneBounds


@dataclass(frozen=True)
class RayRender:
    """What n rays see, differentiable in the field's parameters.

    Attributes:
        rgb: (n, 3) in [0, 1], over the background.
        depth: (n,) expected distance along the ray, world units: Σ w t / Σ w. 0 where the opacity is 0.
        opacity: (n,) in [0, 1], Σ w.
        weights: (n_samples,) each sample's share of its ray's colour.
        samples: where they lie, of all rays together.
    """

    rgb: Tensor
    depth: Tensor
    opacity: Tensor
    weights: Tensor
    samples: Samples

    def distortion(self) -> Tensor:
        """Return how far rays' samples are spread (Barron et al. 2022, equation 15): a scalar, the mean over rays."""
        return distortion(self.weights, self.samples).mean()


@dataclass(frozen=True)
class Render:
    """What a camera sees: rgb (h, w, 3), depth (h, w) and opacity (h, w), as in RayRender, without a graph."""

    rgb: Tensor
    depth: Tensor
    opacity: Tensor

    @property
    def surface_depth(self) -> Tensor:
        """The depth (h, w) where at least half of the light is stopped; 0 elsewhere, which is drawn as empty."""
        return self.depth.where(self.opacity >= 0.5, 0.0)


class Renderer(Protocol):
    """An nn.Module that renders a geometry, which it holds, and whatever lies behind it."""

    def __init__(self, cfg: Any, geometry: Geometry, bounds: SceneBounds) -> None: ...

    def to(self, device: torch.device) -> Any:
        """Move it in place, as nn.Module does."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to restore it, as nn.Module does."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore it, whatever its resolution was."""
        ...

    def parameter_groups(self) -> ParameterGroups:
        """Return the parameters of the geometry and of what is behind it; new ones whenever `refine` returned True."""
        ...

    def smooth(self, weights: Smoothing, generator: torch.Generator | None) -> Tensor:
        """Add to the parameters' gradients those of the weighted roughness, and return that; see `Geometry.smooth`."""
        ...

    def refine(self, share: float) -> bool:
        """Bring the field to a share in (0, 1] of its full resolution. Returns whether its parameters are new ones."""
        ...

    def before_step(self, step: int, generator: torch.Generator) -> None:
        """Update what speeds rendering up. Called before every training step, from 0 on."""
        ...

    def __call__(self, rays: Rays, generator: torch.Generator | None = None) -> RayRender:
        """Render n rays (n, 3), differentiably; a CPU generator shifts each ray's steps at random, for training."""
        ...

    def field(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return density (n,) at world positions (n, 3), and colour (n, 3) seen along unit directions, without a graph.

        As the geometry has them, per unit of the scene's space, but for density that no ray meets, which is 0 here.
        """
        ...

    def render(self, camera: Cameras) -> Render:
        """Render the view of one camera, without a graph."""
        ...

    def backward(self, camera: Cameras, d_rgb: Tensor) -> None:
        """Add to the parameters' gradients those of Σ d_rgb * render(camera).rgb, d_rgb (h, w, 3)."""
        ...
