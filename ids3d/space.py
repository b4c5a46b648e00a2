"""The coordinates in which a scene's field is laid out: straight lines of the world are straight lines of each space.

A box is the world itself. Photographs that all look the same way want cells that grow with the distance, as what a
pixel sees does: there the space is the cameras' own view of the scene, squeezed along the line of sight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ids3d.cameras import Rays

_AHEAD = 1e-3
"""The least cosine to the line of sight of a ray that reaches a NDC space."""


@dataclass(frozen=True)
class SpaceRays:
    """World rays as straight lines in a space.

    Attributes:
        origins, directions: (n, 3), the latter of unit length in the space's coordinates.
        near, far: (n,) distances in the space between which there is something; far <= near where there is nothing.
        scale, offset, bend: (n,) how distances t in the space lie along the world's rays:
            world = offset + scale * t / (1 - bend * t).
    """

    origins: Tensor
    directions: Tensor
    near: Tensor
    far: Tensor
    scale: Tensor
    offset: Tensor
    bend: Tensor

    def distance(self, t: Tensor, ray_indices: Tensor) -> Tensor:
        """World distances (m,) along the rays `ray_indices` (m,) of distances t (m,) in the space."""
        scale, offset, bend = (x.index_select(0, ray_indices) for x in (self.scale, self.offset, self.bend))
        return offset + scale * t / (1 - bend * t)


class Space(Protocol):
    """Coordinates for points and rays. Its own lengths are what densities and steps count in."""

    def coordinates(self, points: Tensor) -> Tensor:
        """World points (..., 3) in the space."""
        ...

    def points(self, coordinates: Tensor) -> Tensor:
        """The inverse of `coordinates`."""
        ...

    def cast(self, rays: Rays, near: float, far: float) -> SpaceRays:
        """Rays (n, 3), which see nothing nearer than near nor farther than far, world units."""
        ...

    def length(self, near: float, far: float) -> float:
        """How long, in the space, a ray straight ahead is between two distances, world units."""
        ...

    def key(self) -> str:
        """Names it, for what is kept of a scene."""
        ...


@dataclass(frozen=True)
class Box(Space):
    """The world's own coordinates."""

    def coordinates(self, points: Tensor) -> Tensor:
        return points

    def points(self, coordinates: Tensor) -> Tensor:
        return coordinates

    def cast(self, rays: Rays, near: float, far: float) -> SpaceRays:
        zero = torch.zeros_like(rays.origins[:, 0])
        return SpaceRays(rays.origins, rays.directions, zero + near, zero + far, zero + 1, zero, zero)

    def length(self, near: float, far: float) -> float:
        return far - near

    def key(self) -> str:
        return "box"


BOX = Box()


@dataclass(frozen=True)
class NDC(Space):
    """Normalised device coordinates (Mildenhall et al. 2020, appendix C) of the average camera.

    With x, y, z the point in the camera's axes (OpenGL's), w = -z > 0 the depth, and n the near plane's:

        coordinates = (x / w, y / w, -depth * (1 - n / w))

    The first two are tangents: what is a pixel wide is so at every distance. The third runs from 0 at the near plane to
    -depth infinitely far away, in equal steps of disparity. (The published ones divide the first two by the field of
    view's tangents and have the third in [-1, 1].) The map is projective, so rays stay straight.

    Attributes:
        rotation: (3, 3) float32, its rows the camera's right, up and back in world axes.
        origin: (3,) float32, the camera's centre.
        near: depth of the near plane along the camera's axis, > 0; nothing is nearer.
        depth: the length of all that lies beyond it.
    """

    rotation: Tensor
    origin: Tensor
    near: float
    depth: float

    def coordinates(self, points: Tensor) -> Tensor:
        x, y, z = ((points - self.origin.to(points)) @ self.rotation.T.to(points)).unbind(-1)
        return torch.stack([x / -z, y / -z, -self.depth * (1 + self.near / z)], dim=-1)

    def points(self, coordinates: Tensor) -> Tensor:
        x, y, z = coordinates.unbind(-1)
        w = self.near / (1 + z / self.depth)
        local = torch.stack([x * w, y * w, -w], dim=-1)
        return local @ self.rotation.to(local) + self.origin.to(local)

    def cast(self, rays: Rays, near: float, far: float) -> SpaceRays:
        n = self.near
        axes = self.rotation.T.to(rays.origins)
        origins, directions = (rays.origins - self.origin.to(axes)) @ axes, rays.directions @ axes
        ahead = -directions[:, 2]
        usable, ahead = ahead > _AHEAD, ahead.clamp(min=_AHEAD)
        offset = (n + origins[:, 2]) / ahead  # to the near plane
        start = (origins + offset[:, None] * directions)[:, :2] / n
        end = directions[:, :2] / ahead[:, None]
        # Of the way between them, s = t ahead / (n + t ahead) is done at the world's distance t from the near plane.
        way = torch.cat([end - start, torch.full_like(end[:, :1], -self.depth)], dim=1)
        length = torch.linalg.vector_norm(way, dim=1)
        planes = []
        for distance in (near, far):
            depth = ((distance - offset) * ahead).clamp(min=0)
            planes.append(depth / (n + depth) * length)
        start = torch.cat([start, torch.zeros_like(start[:, :1])], dim=1)
        return SpaceRays(
            origins=start,
            directions=way / length[:, None],
            near=planes[0],
            far=torch.where(usable, planes[1], planes[0]),
            scale=n / (ahead * length),
            offset=offset,
            bend=1 / length,
        )

    def length(self, near: float, far: float) -> float:
        return self.depth * self.near * (1 / max(near, self.near) - 1 / far)

    def key(self) -> str:
        return repr(("ndc", self.rotation.tolist(), self.origin.tolist(), self.near, self.depth))
