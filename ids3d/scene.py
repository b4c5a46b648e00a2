"""What every scene format hands to a system: posed images, the scene's bounds, what is known of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ids3d.cameras import Cameras, Views
from ids3d.space import BOX, Space

CameraLayout = Literal["forward-facing", "all around", "looking outwards"]


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
    """The known result of an edit, and what else is known of the test views of made scenes only.

    Attributes:
        images: (n, H, W, 3) float32 in [0, 1]: the test views of the edited scene.
        masks: (n, H, W) bool: the pixels that the edit touches.
        depths: (n, H, W) float32, scene units: of the scene before the edit, along the rays of the pixels; None: not
            known.
    """

    images: Tensor
    masks: Tensor
    depths: Tensor | None = None


@dataclass(frozen=True)
class FreeSpace:
    """What views say is empty: n cameras, and the depth (n,) along each one's axis before which it shows nothing."""

    cameras: Cameras
    depth: Tensor


@dataclass(frozen=True)
class SceneBounds:
    """Where a scene's geometry lies, in scene units: what a field and its renderer are laid out by.

    Attributes:
        aabb: (6,) float32, (x0, y0, z0, x1, y1, z1), around all that the images see, in the space's coordinates.
        near, far: bounds of the scene along unit rays; 0 <= near < far.
        background: rgb in [0, 1] behind the box; None: not known, such as a room around what was photographed.
        core: (6,) float32, the part of the box that the cameras around it all look at; None: no part more than others.
        free_space: what the training views say is empty; None: no more is known than `near`.
        space: the coordinates in which the geometry is laid out.
        pixel: in these, how wide a pixel of the views is where the cameras look; None: not known.
        pixels: how many the views have in all, to train on; None: not known.
    """

    aabb: Tensor
    near: float
    far: float
    background: tuple[float, float, float] | None
    core: Tensor | None = None
    free_space: FreeSpace | None = None
    space: Space = BOX
    pixel: float | None = None
    pixels: int | None = None

    @property
    def length(self) -> float:
        """How long rays are within the bounds, in the space's units."""
        return self.space.length(self.near, self.far)

    def __post_init__(self) -> None:
        if self.aabb.shape != (6,) or not bool(torch.all(self.aabb[:3] < self.aabb[3:])):
            raise ValueError(f"not a box: {self.aabb.tolist()}")
        if not 0 <= self.near < self.far:
            raise ValueError(f"near {self.near} and far {self.far} must satisfy 0 <= near < far")
        if self.pixel is not None and not self.pixel > 0:
            raise ValueError(f"a pixel {self.pixel} wide")


@dataclass(frozen=True)
class Scene:
    """A captured scene, ready to be reconstructed.

    Attributes:
        train, test: views for training and views held out, of one size.
        bounds: where its geometry lies, in scene units.
        layout: how the cameras stand to each other.
        to_scene: from the units and axes of the files to the scene's.
        truth: the edited test views, where they are known.
        captions: what the scene shows (source) and what the edit should show (target), where the folder says.
        name: what people call it, such as its folder's; empty: nothing.
        taken_as: the format that it was found to have, and by what; empty: the config says the format.
    """

    train: Views
    test: Views
    bounds: SceneBounds
    layout: CameraLayout
    to_scene: Similarity
    truth: Truth | None = None
    captions: tuple[str, str] | None = None
    name: str = ""
    taken_as: str = ""

    def __post_init__(self) -> None:
        if self.truth is not None and len(self.truth.images) != len(self.test):
            raise ValueError(f"{len(self.truth.images)} edited images for {len(self.test)} test views")

    def describe(self) -> str:
        """One line for the log: views, size, split, layout, bounds and box."""
        cameras, n, bounds = self.train.cameras, len(self.train) + len(self.test), self.bounds
        sides = " x ".join(f"{side:.3g}" for side in (bounds.aabb[3:] - bounds.aabb[:3]).tolist())
        known = ", edited truth known" if self.truth else ""
        of_space = "" if bounds.space == BOX else " of normalised device coordinates"
        return (
            f"{n} views of {cameras.width}x{cameras.height} pixels, {len(self.train)} to train on and "
            f"{len(self.test)} held out, {self.layout}{known}; near {bounds.near:.3g}, far {bounds.far:.3g}, "
            f"box {sides}{of_space} ({self.to_scene.scale:.3g} scene units per unit of the files)"
        )

    @cached_property
    def digest(self) -> str:
        """Names all that a reconstruction depends on: images, cameras, bounds, the split."""
        bounds, free = self.bounds, self.bounds.free_space
        numbers = (bounds.near, bounds.far, bounds.background, bounds.pixel, bounds.pixels)
        digest = hashlib.sha256(repr(numbers).encode())
        digest.update(bounds.space.key().encode())
        for extent in (bounds.aabb, bounds.core, None if free is None else free.depth):
            digest.update(b"none" if extent is None else extent.cpu().numpy().tobytes())
        for views in (self.train, self.test):
            cameras = views.cameras
            for tensor in (views.images, cameras.c2w, cameras.fx, cameras.fy, cameras.cx, cameras.cy):
                digest.update(f"{tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().numpy().data)
            for name, extra in (("opacity", views.opacity), ("known", views.known)):
                if extra is not None:
                    digest.update(name.encode())
                    digest.update(extra.cpu().contiguous().numpy().data)
        return digest.hexdigest()
