"""What a renderer offers, and what it returns: all that the systems know of how a scene is represented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ids3d.cameras import Cameras, Rays
from ids3d.models.geometry.protocol import Geometry, ParameterGroups, Regularisation
from ids3d.rendering import Samples, distortion
from ids3d.scene import SceneBounds


@dataclass(frozen=True)
class RayRender:
    """What n rays see, differentiable in the field's parameters.

    Attributes:
        rgb: (n, 3) in [0, 1], over the background.
        depth: (n,) expected distance along the ray, world units: Σ w t / Σ w. 0 where the opacity is 0.
        opacity: (n,) in [0, 1], Σ w.
        weights: (n_samples,) what each sample has of its ray's colour.
        samples: where they lie, all rays' together.
    """

    rgb: Tensor
    depth: Tensor
    opacity: Tensor
    weights: Tensor
    samples: Samples

    def distortion(self) -> Tensor:
        """How far the rays' samples are spread (Barron et al. 2022, equation 15), a scalar: the mean over rays."""
        return distortion(self.weights, self.samples).mean()


@dataclass(frozen=True)
class Render:
    """What a camera sees: rgb (h, w, 3), depth (h, w) and opacity (h, w), as in RayRender. No graph."""

    rgb: Tensor
    depth: Tensor
    opacity: Tensor


class Renderer(Protocol):
    """An nn.Module that renders a geometry, which it holds, and whatever lies behind it."""

    def __init__(self, cfg: Any, geometry: Geometry, bounds: SceneBounds) -> None: ...

    def to(self, device: torch.device) -> Any:
        """Move it in place, as nn.Module does."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to restore it, as nn.Module gives it."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore it, whatever its resolution was."""
        ...

    def parameter_groups(self) -> ParameterGroups:
        """The parameters of the geometry and of what lies behind it. Other ones after `refine` returned True."""
        ...

    def regularisation(self, generator: torch.Generator | None) -> Regularisation:
        """The field's roughness; the generator draws where it is looked at, None: everywhere."""
        ...

    def refine(self, share: float) -> bool:
        """Bring the field to a share in (0, 1] of its full resolution; whether its parameters are new ones now."""
        ...

    def before_step(self, step: int, generator: torch.Generator) -> None:
        """To be called before every training step, from 0 on: keeps up what speeds rendering up."""
        ...

    def __call__(self, rays: Rays, generator: torch.Generator | None = None) -> RayRender:
        """Render n rays (n, 3), differentiably; a CPU generator shifts each ray's steps at random, for training."""
        ...

    def render(self, camera: Cameras) -> Render:
        """The view of one camera, without a graph."""
        ...

    def backward(self, camera: Cameras, d_rgb: Tensor) -> None:
        """Add to the parameters' gradients those of Σ d_rgb * render(camera).rgb, d_rgb (h, w, 3)."""
        ...
