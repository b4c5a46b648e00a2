"""What every data module hands to a system: posed pictures, the scene's box, what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ids3d.cameras import Views

Kind = Literal["forward-facing", "all around", "looking outwards"]


@dataclass(frozen=True)
class Similarity:
    """Rotation, uniform scale and shift: `scene = scale * rotation @ (world - origin)`.

    Attributes:
        rotation: (3, 3) float64, determinant +1; its rows are the scene's axes in world coordinates.
        origin: (3,) float64, the world point that becomes the scene's origin.
        scale: scene units per world unit, > 0.
    """

    rotation: Tensor
    origin: Tensor
    scale: float

    def apply(self, points: Tensor) -> Tensor:
        """World points (..., 3) in scene units, in the points' own precision."""
        return self.scale * (points - self.origin.to(points)) @ self.rotation.to(points).T

    def undo(self, points: Tensor) -> Tensor:
        """Scene points (..., 3) back in world units."""
        return (points / self.scale) @ self.rotation.to(points) + self.origin.to(points)


@dataclass(frozen=True)
class Truth:
    """The known result of an edit, for made scenes only.

    Attributes:
        images: (n, H, W, 3) float32 in [0, 1]: the test views of the edited scene.
        masks: (n, H, W) bool: the pixels that the edit touches.
    """

    images: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Scene:
    """A captured scene, ready to be reconstructed.

    Attributes:
        train, test: views for training and views held out, of one picture size.
        aabb: (6,) float32, (x0, y0, z0, x1, y1, z1) in scene units, around all that the pictures see.
        near, far: bounds of the scene along unit rays, in scene units; 0 <= near < far.
        background: rgb in [0, 1] behind the box; None: not known, such as a room around what was photographed.
        kind: how the cameras stand to each other.
        to_scene: from the units and axes of the files to the scene's.
        truth: the edited test views, where they are known.
        captions: what the scene shows (source) and what the edit should show (target), where the folder says.
        nearest: (n,) float32, for each training view the depth along its camera's axis, in scene units, before which it
            shows nothing; None: no more is known than `near`.
        core: (6,) float32, the part of the box that the cameras around it all look at; None: no part more than others.
    """

    train: Views
    test: Views
    aabb: Tensor
    near: float
    far: float
    background: tuple[float, float, float] | None
    kind: Kind
    to_scene: Similarity
    truth: Truth | None = None
    captions: tuple[str, str] | None = None
    core: Tensor | None = None
    nearest: Tensor | None = None

    def __post_init__(self) -> None:
        if self.aabb.shape != (6,) or not bool(torch.all(self.aabb[:3] < self.aabb[3:])):
            raise ValueError(f"not a box: {self.aabb.tolist()}")
        if not 0 <= self.near < self.far:
            raise ValueError(f"near {self.near} and far {self.far} must satisfy 0 <= near < far")
        if self.truth is not None and len(self.truth.images) != len(self.test):
            raise ValueError(f"{len(self.truth.images)} edited pictures for {len(self.test)} test views")

    def describe(self) -> str:
        """One line for the log: views, size, split, kind, bounds and box."""
        cameras, n = self.train.cameras, len(self.train) + len(self.test)
        sides = " x ".join(f"{side:.3g}" for side in (self.aabb[3:] - self.aabb[:3]).tolist())
        known = ", edited truth known" if self.truth else ""
        return (
            f"{n} views of {cameras.width}x{cameras.height} pixels, {len(self.train)} to train on and "
            f"{len(self.test)} held out, {self.kind}{known}; near {self.near:.3g}, far {self.far:.3g}, "
            f"box {sides} ({self.to_scene.scale:.3g} scene units per unit of the files)"
        )
