"""Pinhole cameras, the rays through their pixels, and views: images with the cameras that took them.

Conventions, everywhere in the project:

* Camera axes are OpenGL's: x right, y up, z back (a camera looks along its own -z). `c2w` takes camera to
  world.
* Pixel (row i, column j) has its centre at (x, y) = (j + 0.5, i + 0.5); x runs right, y runs down, and (0, 0)
  is the top-left corner of the image.
* Ray directions have unit length, so a depth along a ray is a distance and not a z-depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rays:
    """Rays of any batch shape.

    Attributes:
        origins: (..., 3) in world units.
        directions: (..., 3) of unit length, world axes.
    """

    origins: Tensor
    directions: Tensor

    def __post_init__(self) -> None:
        if self.origins.shape != self.directions.shape or self.origins.shape[-1:] != (3,):
            raise ValueError(
                f"origins {tuple(self.origins.shape)} and directions {tuple(self.directions.shape)} "
                "must be of one shape (..., 3)"
            )

    @property
    def shape(self) -> torch.Size:
        """Batch shape: all but the last axis."""
        return self.origins.shape[:-1]

    def __len__(self) -> int:
        """Size of the first batch axis (the number of rays, once flat)."""
        return len(self.origins)

    def __getitem__(self, index: Any) -> Rays:
        """Index the batch axes, as a tensor of shape `self.shape` would be indexed."""
        return Rays(self.origins[index], self.directions[index])

    def flatten(self) -> Rays:
        """Return the same rays with one batch axis: (n, 3)."""
        return Rays(self.origins.reshape(-1, 3), self.directions.reshape(-1, 3))

    def to(self, device: torch.device | str) -> Rays:
        return Rays(self.origins.to(device), self.directions.to(device))


@dataclass(frozen=True)
class Cameras:
    """n pinhole cameras without distortion that share one image size.

    Attributes:
        c2w: (n, 3, 4) float32, camera to world, OpenGL axes; its columns are right, up, back and the centre.
        fx, fy: (n,) float32 focal lengths in pixels.
        cx, cy: (n,) float32 principal point in pixels, from the top-left corner of the image.
        height, width: size of the images in pixels.
    """

    c2w: Tensor
    fx: Tensor
    fy: Tensor
    cx: Tensor
    cy: Tensor
    height: int
    width: int

    def __post_init__(self) -> None:
        n = len(self.c2w)
        if self.c2w.shape != (n, 3, 4):
            raise ValueError(f"c2w must be (n, 3, 4), not {tuple(self.c2w.shape)}")
        for name in ("fx", "fy", "cx", "cy"):
            if getattr(self, name).shape != (n,):
                raise ValueError(f"{name} must be ({n},), not {tuple(getattr(self, name).shape)}")

    @property
    def centres(self) -> Tensor:
        """(n, 3) camera centres in world units."""
        return self.c2w[:, :, 3]

    @property
    def forward(self) -> Tensor:
        """(n, 3) unit viewing directions, world axes."""
        return -self.c2w[:, :, 2]

    @property
    def device(self) -> torch.device:
        return self.c2w.device

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index: int | slice | Tensor) -> Cameras:
        """Return the chosen cameras; an int keeps a batch of one (and raises IndexError out of range)."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"camera {index} of {len(self)}")
            index = slice(index, index + 1 or None)
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> Cameras:
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, f: Callable[[Tensor], Tensor]) -> Cameras:
        return Cameras(f(self.c2w), f(self.fx), f(self.fy), f(self.cx), f(self.cy), self.height, self.width)

    def resized(self, height: int, width: int) -> Cameras:
        """Return the same cameras for resampled images: the field of view stays, the intrinsics scale."""
        if height < 1 or width < 1:
            raise ValueError(f"an image of {height}x{width} pixels")
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
            height=height,
            width=width,
        )

    def rays(self) -> Rays:
        """Return the rays through all pixel centres: batch shape (n, height, width). Differentiable in the cameras."""
        device = self.device
        camera = torch.arange(len(self), device=device)[:, None, None]
        rows = torch.arange(self.height, device=device)[None, :, None]
        cols = torch.arange(self.width, device=device)[None, None, :]
        return self.rays_at(*torch.broadcast_tensors(camera, rows, cols))

    def rays_at(self, camera_indices: Tensor, rows: Tensor, cols: Tensor) -> Rays:
        """Return the rays through chosen pixels.

        Args:
            camera_indices, rows, cols: integer tensors of one shape (...); the ray of pixel (row, col) goes
                through its centre (col + 0.5, row + 0.5).

        Returns:
            Rays of batch shape (...). Differentiable in the cameras.
        """
        i = camera_indices
        x = (cols + 0.5 - self.cx[i]) / self.fx[i]
        y = (rows + 0.5 - self.cy[i]) / self.fy[i]
        local = torch.stack([x, -y, -torch.ones_like(x)], dim=-1)
        c2w = self.c2w[i]
        directions = (c2w[..., :3] * local[..., None, :]).sum(-1)
        directions = directions / torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
        return Rays(c2w[..., 3], directions)


def project(cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """Project world points into every image.

    Args:
        cameras: n cameras.
        points: (p, 3) in world units.

    Returns:
        xy: (n, p, 2) pixels, from the top-left corner of the image (a pixel's centre is at + 0.5).
        depth: (n, p) distance along the camera's axis, in world units; <= 0 is behind the camera, and its xy
            then means nothing. Both are differentiable in points and cameras.
    """
    local = torch.einsum("npk,nkj->npj", points - cameras.centres[:, None], cameras.c2w[:, :, :3])
    depth = -local[..., 2]
    x = cameras.fx[:, None] * local[..., 0] / depth + cameras.cx[:, None]
    y = -cameras.fy[:, None] * local[..., 1] / depth + cameras.cy[:, None]
    return torch.stack([x, y], dim=-1), depth


def look_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Return the poses of cameras at `eye` that look at `target`, upright with respect to `up`.

    Args:
        eye, target, up: (..., 3), broadcast against each other; `up` need be neither of unit length nor at
            right angles to the view.

    Returns:
        c2w (..., 3, 4), OpenGL axes.

    Raises:
        ValueError: eye and target coincide, or `up` is parallel to the view.
    """
    eye, target, up = torch.broadcast_tensors(eye, target, up)
    back = eye - target
    right = torch.linalg.cross(up, back, dim=-1)
    sizes = torch.linalg.vector_norm(right, dim=-1)
    scale = torch.linalg.vector_norm(up, dim=-1) * torch.linalg.vector_norm(back, dim=-1)
    if not bool((sizes > 1e-6 * scale).all()):
        raise ValueError("look_at: eye and target coincide, or up is parallel to the view")
    back = back / torch.linalg.vector_norm(back, dim=-1, keepdim=True)
    right = right / sizes[..., None]
    return torch.stack([right, torch.linalg.cross(back, right, dim=-1), back, eye], dim=-1)


def closest_to_axes(centres: Tensor, directions: Tensor) -> Tensor:
    """Return the point nearest to n lines `centre + t direction`, in the least-squares sense.

    Args:
        centres: (n, 3).
        directions: (n, 3) of unit length.

    Returns:
        (3,). For parallel lines, which have no such point or many: the one nearest to the mean
        of the centres.
    """
    across = torch.eye(3).to(directions) - directions[:, :, None] * directions[:, None, :]
    middle = centres.mean(dim=0)
    offsets = (across @ (centres - middle)[:, :, None]).sum(dim=0)
    return middle + (torch.linalg.pinv(across.sum(dim=0), rtol=1e-5, hermitian=True) @ offsets)[:, 0]


def pinhole(c2w: Tensor, height: int, width: int, fov_y: float) -> Cameras:
    """Return cameras with square pixels and a centred principal point.

    Args:
        c2w: (n, 3, 4), OpenGL axes.
        height, width: image size in pixels.
        fov_y: vertical field of view in degrees, in (0, 180).

    Example:
        >>> c2w = look_at(torch.tensor([0.0, 0.0, 3.0]), torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
        >>> cameras = pinhole(c2w[None], 48, 64, 60.0)
        >>> cameras.rays().shape
        torch.Size([1, 48, 64])
        >>> project(cameras, torch.zeros(1, 3))  # the point looked at is in the middle, 3 units ahead
        (tensor([[[32., 24.]]]), tensor([[3.]]))
    """
    if not 0 < fov_y < 180:
        raise ValueError(f"a field of view of {fov_y} degrees")
    one = torch.ones(len(c2w), dtype=c2w.dtype, device=c2w.device)
    focal = 0.5 * height / math.tan(math.radians(fov_y) / 2)
    return Cameras(c2w, one * focal, one * focal, one * (width / 2), one * (height / 2), height, width)


@dataclass(frozen=True)
class Views:
    """Images with the cameras that took them (one: a view).

    Attributes:
        images: (n, H, W, 3) float32 in [0, 1], channels last.
        cameras: the n cameras, of the same height and width.
        names: n names, the images' file names without suffix.
        opacity: (n, H, W) float32 in [0, 1], how much of the images is not the background, where they are to be seen
            before random ones too; None: before their own only.
        known: (n, H, W) bool, the pixels that count; None: all.
    """

    images: Tensor
    cameras: Cameras
    names: tuple[str, ...]
    opacity: Tensor | None = None
    known: Tensor | None = None

    def __post_init__(self) -> None:
        expected = (len(self.cameras), self.cameras.height, self.cameras.width, 3)
        if tuple(self.images.shape) != expected:
            raise ValueError(f"images {tuple(self.images.shape)} do not fit the cameras, expected {expected}")
        if len(self.names) != len(self.cameras):
            raise ValueError(f"{len(self.names)} names for {len(self.cameras)} views")
        for extra in (self.opacity, self.known):
            if extra is not None and extra.shape != self.images.shape[:3]:
                raise ValueError(f"{tuple(extra.shape)} does not fit images {tuple(self.images.shape)}")

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def pixels(self) -> int:
        """Of all views together."""
        return self.images.shape[:3].numel()

    def __getitem__(self, index: int | slice | Tensor) -> Views:
        """Return the chosen views; an int keeps a batch of one."""
        order = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index].reshape(-1)
        names = tuple(self.names[i] for i in order.tolist())
        opacity, known = (None if extra is None else extra[order] for extra in (self.opacity, self.known))
        return Views(self.images[order], self.cameras[order], names, opacity, known)

    def to(self, device: torch.device | str) -> Views:
        opacity, known = (None if extra is None else extra.to(device) for extra in (self.opacity, self.known))
        return Views(self.images.to(device), self.cameras.to(device), self.names, opacity, known)
