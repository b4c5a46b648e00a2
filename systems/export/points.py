"""A field as a coloured point cloud: what the training views see of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor

from ids3d.config.bounds import SHARE, check_bounds
from ids3d.errors import UserError
from ids3d.models.renderers.protocol import Renderer
from ids3d.progress import track
from ids3d.systems.export.fields import ExportSettings, RunFields, Units


@dataclass(frozen=True)
class Cloud:
    """Points (n, 3) float64 in scene units, and their colours (n, 3) in [0, 1]."""

    points: Tensor
    colours: Tensor

    def save(self, path: Path, fields: RunFields, units: Units) -> None:
        """Write it as a PLY."""
        colours = (self.colours * 255).round().byte().numpy()
        trimesh.PointCloud(fields.in_units(self.points, units).numpy(), colours).export(path)


@dataclass(frozen=True)
class Points(ExportSettings):
    """points.ply: a point for each cell of a grid in which the training views see something opaque."""

    opacity: float = 0.9  # opacity from which a pixel counts
    cells: int = 512  # cells along the longest side of the scene's box, each of which keeps one point
    units: Units = "scene"  # scene: units and axes of the scene's own; files: those of the capture's files

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, opacity=SHARE, cells="[1, 1e5]")

    def write(self, fields: RunFields, folder: Path) -> str:
        """Write the file into `folder`. Returns what came out, in one line. Raises UserError: no pixel is opaque."""
        found = cloud(fields, fields.after, self.opacity, self.cells)
        found.save(folder / "points.ply", fields, self.units)
        return f"{len(found.points)} points"


def cloud(fields: RunFields, renderer: Renderer, opacity: float, cells: int) -> Cloud:
    """The points that training views see in opaque pixels: in each cell of the space, the mean of those within it.

    Raises UserError: there are none.
    """
    points, colours, cameras = [], [], fields.scene.train.cameras
    for i in track(range(len(cameras)), "points"):
        fields.check()
        camera = cameras[i].to(fields.device)
        render, rays = renderer.render(camera), camera.rays().flatten()
        opaque = (render.opacity >= opacity).flatten()
        depth = render.depth.flatten()[opaque, None]
        points.append((rays.origins[opaque] + depth * rays.directions[opaque]).double().cpu())
        colours.append(render.rgb.reshape(-1, 3)[opaque].double().cpu())
    found = thinned(Cloud(torch.cat(points), torch.cat(colours)), fields, cells)
    if len(found.points) == 0:
        raise UserError(
            f"no pixel of the training views has an opacity of {opacity} or more: a lower one may do"
        )
    return found


def thinned(found: Cloud, fields: RunFields, cells: int) -> Cloud:
    """One point for each cell of a grid in the scene's space: the mean of those in it, and of their colours."""
    bounds = fields.scene.bounds
    aabb = bounds.aabb.double().cpu()
    side = float((aabb[3:] - aabb[:3]).max()) / cells
    cell = ((bounds.space.coordinates(found.points) - aabb[:3]) / side).floor().numpy()
    _, where, counts = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
    values = torch.cat([found.points, found.colours], dim=1)
    sums = torch.zeros(len(counts), 6, dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(where.reshape(-1)), values)
    means = sums / torch.from_numpy(counts)[:, None]
    return Cloud(means[:, :3], means[:, 3:])
