"""Depth maps of the training views, fused to one surface (Curless and Levoy 1996, "A volumetric method for building
complex models from range images").

At each node of a lattice, the signed distance to what a view sees, along that view's line of sight, is cut to a narrow
band and averaged over the views; nodes behind the band know nothing of that view. The surface is where the mean is
zero. It lies where light comes from, on average, whether that is a hard edge or the middle of a fog that is opaque only
in its whole depth, as a plain wall may come back as. A level of the density finds the former alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn import functional as F

from ids3d.cameras import Cameras, project
from ids3d.errors import UserError
from ids3d.progress import QUICK, track
from ids3d.rendering import cubic_resolution
from ids3d.scene import SceneBounds
from ids3d.systems.export.fields import RunFields

BAND = 0.02  # half the band's width, of the box's diagonal
CELLS = 5  # and no less than so many cells: what has a hole in its band has a hole in its surface
CHUNK = 2**18  # points at a time


@dataclass(frozen=True)
class DepthMaps:
    """What n views see.

    Attributes:
        cameras: n of them.
        depth: (n, h, w) expected distance along each pixel's ray, world units.
        opaque: (n, h, w) bool, where there is a surface.
        rgb: (n, h, w, 3) in [0, 1].
    """

    cameras: Cameras
    depth: Tensor
    opaque: Tensor
    rgb: Tensor

    def seen(self, i: int, points: Tensor, bounds: SceneBounds) -> tuple[Tensor, Tensor, Tensor]:
        """Look at world points (p, 3) from view i.

        Returns:
            ahead: (p,) how far behind the point, in the space's units, what the view sees there is; negative where that
                hides the point; infinite where the view sees through.
            within: (p,) bool, whether the view has the point in its picture.
            rgb: (p, 3) the picture's colour there.
        """
        camera, size = self.cameras[i], (self.cameras.width, self.cameras.height)
        xy, axial = (x[0] for x in project(camera, points))
        unit = 2 * xy / xy.new_tensor(size) - 1
        within = (axial > 0) & (unit.abs() < 1).all(-1)

        def at(image: Tensor, mode: str) -> Tensor:
            where = unit.clamp(-1, 1)[None, None]
            return F.grid_sample(image[None], where, mode=mode, padding_mode="border", align_corners=False)[
                0, :, 0
            ]

        known = torch.stack([self.depth[i], self.opaque[i].float()])
        (depth, share), nearest = at(known, "bilinear"), at(known, "nearest")
        depth = torch.where(share > 1 - 1e-4, depth, nearest[0])  # not between a surface and nothing
        centre = camera.centres[0]
        distance = torch.linalg.vector_norm(points - centre, dim=-1).clamp(min=1e-9)
        surface = centre + (points - centre) * (depth / distance)[:, None]
        ahead = torch.linalg.vector_norm(
            bounds.space.coordinates(surface) - bounds.space.coordinates(points), dim=-1
        )
        ahead = torch.where(nearest[1] > 0.5, ahead * torch.sign(depth - distance), torch.inf)
        return ahead, within, at(self.rgb[i].movedim(-1, 0), "bilinear").T


def depth_maps(fields: RunFields, opacity: float) -> DepthMaps:
    """What the training views see; a pixel of at least this opacity shows a surface. Raises UserError: none does."""
    cameras, renders = fields.scene.train.cameras.to(fields.device), []
    for i in track(range(len(cameras)), "depth maps"):
        fields.check()
        renders.append(fields.after.render(cameras[i]))
    opaque = torch.stack([render.opacity >= opacity for render in renders])
    if not opaque.any():
        raise UserError(
            f"no pixel of the training views has an opacity of {opacity} or more: is the run finished? A lower one may "
            "find a surface"
        )
    depth, rgb = (torch.stack([getattr(render, name) for render in renders]) for name in ("depth", "rgb"))
    return DepthMaps(cameras, depth, opaque, rgb)


def fused_surface(fields: RunFields, maps: DepthMaps, voxels: int) -> trimesh.Trimesh:
    """The surface in the space's coordinates, of about `voxels` nodes over the box; open where no view sees it go on.

    Raises UserError: the views' depths agree nowhere.
    """
    aabb, space = fields.scene.bounds.aabb.double().cpu(), fields.scene.bounds.space
    resolution = cubic_resolution(aabb, voxels)
    x, y, z = (
        torch.linspace(float(a), float(b), n) for a, b, n in zip(aabb[:3], aabb[3:], resolution, strict=True)
    )
    half = band(aabb, resolution)
    distances = np.zeros(resolution, dtype=np.float32)
    known = np.zeros(resolution, dtype=bool)
    slab = torch.stack(torch.meshgrid(y, z, indexing="ij"), dim=-1).reshape(-1, 2)
    for i in track(range(len(x)), "fusion", unit="slab"):
        fields.check()
        nodes = torch.cat([x[i].expand(len(slab), 1), slab], dim=1)
        points = space.points(nodes.float()).to(fields.device)
        total, views = torch.zeros_like(points[:, 0]), torch.zeros_like(points[:, 0])
        for k in range(len(maps.cameras)):
            ahead, within, _ = maps.seen(k, points, fields.scene.bounds)
            counts = within & (ahead > -half)
            total += torch.where(counts, (ahead / half).clamp(max=1), 0.0)
            views += counts
        distances[i] = (total / views.clamp(min=1)).view(resolution[1:]).cpu().numpy()
        known[i] = (views > 0).view(resolution[1:]).cpu().numpy()
    if not distances.min() < 0:
        raise UserError("the training views agree on no surface: surface=density may find one")
    vertices, faces, _, _ = marching_cubes(distances, 0.0, gradient_direction="descent")
    cells = np.minimum(vertices[faces].mean(axis=1).astype(int), np.array(resolution) - 2)
    faces = faces[_all_known(known)[tuple(cells.T)]]
    start, end = aabb.numpy().reshape(2, 3)
    unit = vertices.astype(np.float64) / (np.array(resolution) - 1)
    return trimesh.Trimesh(start + unit.clip(0, 1) * (end - start), faces)


def fused_colours(fields: RunFields, maps: DepthMaps, vertices: Tensor, width: float) -> Tensor:
    """Colours (n, 3) in [0, 1] on the CPU of world points (n, 3).

    The mean of the views that see a surface within `width` (the space's units) of a point, the nearer the more.
    """
    found = []
    for chunk in track(vertices.split(CHUNK), "colours", unit="chunk", delay=QUICK):
        points = chunk.float().to(fields.device)
        total, weights = torch.zeros_like(points), torch.zeros_like(points[:, :1])
        for k in range(len(maps.cameras)):
            ahead, within, rgb = maps.seen(k, points, fields.scene.bounds)
            # Simplified, a vertex may lie outside of all bands: then all views that have it in their picture count.
            weight = (within * ((1 - ahead.abs() / width).clamp(min=0) ** 2 + 1e-6))[:, None]
            total, weights = total + weight * rgb, weights + weight
        found.append((total / weights.clamp(min=1e-12)).clamp(0, 1).cpu())
    return torch.cat(found)


def band(aabb: Tensor, resolution: tuple[int, int, int]) -> float:
    """Half the width, in the space's units, within which distances count."""
    sides = aabb[3:] - aabb[:3]
    cell = max(float(side) / (n - 1) for side, n in zip(sides, resolution, strict=True))
    return max(BAND * float(torch.linalg.vector_norm(sides)), CELLS * cell)


def _all_known(known: np.ndarray) -> np.ndarray:
    """Of each cell between nodes, whether all its eight are known."""
    for axis in range(3):
        low, high = (np.take(known, range(s, known.shape[axis] - 1 + s), axis=axis) for s in (0, 1))
        known = low & high
    return known
