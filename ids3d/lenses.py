"""Lenses: where a camera's image shows what, by OpenCV's models, which COLMAP, nerfstudio and instant-ngp share.

A point at (X, Y, Z) in OpenCV's camera axes (x right, y down, z ahead) lies at (x, y) = (X / Z, Y / Z) on the plane at
distance 1. A distortion moves it to (x', y') there, and the pixel is (fx x' + cx, fy y' + cy), from the image's
top-left corner (a pixel's centre is at + 0.5, as in COLMAP).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class Distortion(Protocol):
    """What a lens does to the plane at distance 1: smooth, and invertible near the axis."""

    def distort(self, xy: Tensor) -> Tensor:
        """Points (..., 2) of the plane, where the lens shows them, (..., 2)."""
        ...

    def undistort(self, xy: Tensor) -> Tensor:
        """The points (..., 2) float64 that `distort` takes there; nan where none is found."""
        ...


@dataclass(frozen=True)
class RadialTangential:
    """OpenCV's model (Brown 1966, and the rational one), `cv::projectPoints`:

    r² = x² + y²,  f = (1 + k1 r² + k2 r⁴ + k3 r⁶) / (1 + k4 r² + k5 r⁴ + k6 r⁶)
    x' = f x + 2 p1 x y + p2 (r² + 2 x²)
    y' = f y + p1 (r² + 2 y²) + 2 p2 x y

    COLMAP's SIMPLE_RADIAL has k1, RADIAL k1 and k2, OPENCV k1, k2, p1 and p2, FULL_OPENCV all of them.
    """

    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0
    k5: float = 0.0
    k6: float = 0.0

    def distort(self, xy: Tensor) -> Tensor:
        """See `Distortion.distort`."""
        x, y = xy.unbind(-1)
        r2 = x * x + y * y
        above = 1 + r2 * (self.k1 + r2 * (self.k2 + r2 * self.k3))
        below = 1 + r2 * (self.k4 + r2 * (self.k5 + r2 * self.k6))
        f = above / below
        return torch.stack(
            [
                f * x + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x),
                f * y + self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y,
            ],
            dim=-1,
        )

    def undistort(self, xy: Tensor) -> Tensor:
        """See `Distortion.undistort`: Newton's method from the distorted point."""
        wanted = xy.double()
        found = wanted.clone()
        for _ in range(30):
            off = wanted - self.distort(found)
            (a, b), (c, d) = (row.unbind(-1) for row in jacobian(self, found).unbind(-2))
            x, y = off.unbind(-1)
            step = torch.stack([d * x - b * y, a * y - c * x], dim=-1) / (a * d - b * c)[..., None]
            found = found + step.clamp(-0.5, 0.5)
            if bool((off.abs() < 1e-14).all()):
                break
        missed = (self.distort(found) - wanted).norm(dim=-1) > 1e-9
        return torch.where(missed[..., None], torch.nan, found)


@dataclass(frozen=True)
class Fisheye:
    """OpenCV's fisheye model (Kannala and Brandt 2006), `cv::fisheye::projectPoints`:

    r² = x² + y²,  θ = atan r,  θ' = θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸),  (x', y') = (θ' / r) (x, y)
    """

    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0

    def distort(self, xy: Tensor) -> Tensor:
        """See `Distortion.distort`."""
        r = torch.linalg.vector_norm(xy, dim=-1, keepdim=True)
        return xy * torch.where(r > 1e-8, self._bent(r.atan()) / r.clamp(min=1e-8), 1.0)

    def undistort(self, xy: Tensor) -> Tensor:
        """See `Distortion.undistort`: Newton's method for θ. What lies 90 degrees off the axis or more is nan."""
        bent = torch.linalg.vector_norm(xy.double(), dim=-1, keepdim=True)
        theta = bent.clone()
        for _ in range(30):
            theta = theta - ((self._bent(theta) - bent) / self._slope(theta)).clamp(-0.5, 0.5)
        missed = ((self._bent(theta) - bent).abs() > 1e-9) | (theta < 0) | (theta >= torch.pi / 2)
        scale = torch.where(bent > 1e-8, theta.tan() / bent.clamp(min=1e-8), 1.0)
        return torch.where(missed, torch.nan, scale * xy.double())

    def _bent(self, theta: Tensor) -> Tensor:
        t2 = theta * theta
        return theta * (1 + t2 * (self.k1 + t2 * (self.k2 + t2 * (self.k3 + t2 * self.k4))))

    def _slope(self, theta: Tensor) -> Tensor:
        t2 = theta * theta
        return 1 + t2 * (3 * self.k1 + t2 * (5 * self.k2 + t2 * (7 * self.k3 + t2 * 9 * self.k4)))


def jacobian(distortion: Distortion, xy: Tensor, step: float = 1e-5) -> Tensor:
    """Derivatives (..., 2, 2) of the distorted point by the point (..., 2) float64, by central differences."""
    columns = [
        (distortion.distort(xy + offset) - distortion.distort(xy - offset)) / (2 * step)
        for offset in step * torch.eye(2, dtype=torch.float64)
    ]
    return torch.stack(columns, dim=-1)


@dataclass(frozen=True)
class Lens:
    """A camera's image and what it shows where.

    Attributes:
        width, height: of the image in pixels.
        fx, fy: focal lengths in pixels.
        cx, cy: principal point in pixels, from the top-left corner.
        distortion: None for a pinhole camera.
    """

    width: float
    height: float
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: Distortion | None = None

    @property
    def tangents(self) -> tuple[float, float]:
        """Of the angles between the axis and the farther edge of a pinhole's image, to the side and up or down."""
        across = max(self.cx, self.width - self.cx) / self.fx
        return across, max(self.cy, self.height - self.cy) / self.fy

    def resized(self, width: float, height: float) -> Lens:
        """The same lens for a resampled image."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
        )

    def pixels(self, xy: Tensor) -> Tensor:
        """Where the image shows points (..., 2) of the plane at distance 1: (..., 2) pixels, x right and y down."""
        bent = xy if self.distortion is None else self.distortion.distort(xy)
        return bent * bent.new_tensor([self.fx, self.fy]) + bent.new_tensor([self.cx, self.cy])

    def plane(self, pixels: Tensor) -> Tensor:
        """The points (..., 2) float64 of the plane at distance 1 that the image shows at pixels (..., 2)."""
        bent = (pixels.double() - pixels.new_tensor([self.cx, self.cy], dtype=torch.float64)) / (
            pixels.new_tensor([self.fx, self.fy], dtype=torch.float64)
        )
        return bent if self.distortion is None else self.distortion.undistort(bent)

    def grid(self) -> Tensor:
        """Centres (height, width, 2) float64 of all pixels."""
        rows = torch.arange(round(self.height), dtype=torch.float64) + 0.5
        cols = torch.arange(round(self.width), dtype=torch.float64) + 0.5
        return torch.stack(torch.meshgrid(cols, rows, indexing="xy"), dim=-1)
