"""A field as a coloured mesh: marching cubes in the space that the field is laid out in, simplified.

The surface is what the training views see (`fusion`), or, with surface=density, where the opacity over a hundredth of
the box's diagonal, L, reaches `opacity`:

    1 - exp(-density L) = opacity

There marching cubes interpolates the logit of that opacity, log(exp(density L) - 1), which is about linear across a
surface where the field is a softplus of something interpolated.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor

from ids3d.config.bounds import SHARE, check_bounds
from ids3d.errors import UserError
from ids3d.memory import lack_of_memory
from ids3d.models.renderers.protocol import Renderer
from ids3d.progress import QUICK, track
from ids3d.rendering import cubic_resolution
from ids3d.scene import SceneBounds
from ids3d.systems.export.fields import ExportSettings, RunFields, Units
from ids3d.systems.export.fusion import BAND, depth_maps, fused_colours, fused_surface

CHUNK = 2**18  # positions at a time
STEEPEST = 6.0  # logits beyond this are cut: at a hard edge the surface lies midway between two nodes
# Where along the inward normal a vertex's colour is gathered, in hundredths of the diagonal.
COLOUR_FROM, COLOUR_TO, COLOUR_STEPS = -0.5, 2.0, 20


@dataclass(frozen=True)
class MeshFigures:
    """What came out.

    Attributes:
        vertices, faces: how many.
        watertight: whether each edge has two faces.
        open_edges: of those that have not.
        open_box: (x0, y0, z0, x1, y1, z1) around them, in the mesh's units; None: there are none.
        units: of the vertices.
    """

    vertices: int
    faces: int
    watertight: bool
    open_edges: int
    open_box: list[float] | None
    units: Units

    def describe(self) -> str:
        """One line for the log."""
        text = f"{self.vertices} vertices, {self.faces} faces, "
        if self.open_box is None:
            return text + ("watertight" if self.watertight else "closed, but not turned one way throughout")
        corners = ", ".join(f"{x:.3g}" for x in self.open_box)
        return f"{text}not watertight: {self.open_edges} edges without two faces, within [{corners}]"


@dataclass(frozen=True)
class Mesh(ExportSettings):
    """mesh.ply and mesh.glb, which hold the same, and mesh.json about them."""

    # views: the training views' depth maps, fused; open where none of them looks, as behind things. density: where the
    # field is dense; closed, but what is fog, as plain walls may be, has holes.
    surface: Literal["views", "density"] = "views"
    voxels: int = 4_000_000  # nodes of the lattice that the surface is found in, spread over the box's sides
    # views: opacity from which a pixel shows a surface; density: opacity over a hundredth of the box's diagonal at
    # which it lies.
    opacity: float = 0.5
    faces: int = 200_000  # triangles that it is simplified to, about; 0: not simplified
    smallest: float = 0.01  # parts with less than this share of the largest part's area are left out; 0: none
    units: Units = "scene"  # scene: units and axes of the scene's own; files: those of the capture's files

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, voxels="[1000, 1e12]", opacity="[0.01, 0.99]", faces="[0, 1e9]", smallest=SHARE)
        fault = lack_of_memory(40 * self.voxels)
        if fault:
            raise ValueError(f"voxels={self.voxels} {fault}")

    def write(self, fields: RunFields, folder: Path) -> str:
        """Write the files into `folder`. Returns what came out, in one line. Raises UserError: there is no surface."""
        mesh = self.extract(fields)
        for name in ("mesh.ply", "mesh.glb"):
            mesh.export(folder / name)
        figures = figures_of(mesh, self.units)
        (folder / "mesh.json").write_text(json.dumps(asdict(figures), indent=1) + "\n", encoding="utf-8")
        return figures.describe()

    def extract(self, fields: RunFields) -> trimesh.Trimesh:
        """The mesh, with colours of its vertices. Raises UserError: there is no surface."""
        bounds = fields.scene.bounds
        maps = depth_maps(fields, self.opacity) if self.surface == "views" else None
        mesh = self._density_surface(fields) if maps is None else fused_surface(fields, maps, self.voxels)
        mesh = without_small_parts(mesh, self.smallest)
        if 0 < self.faces < len(mesh.faces):
            mesh = mesh.simplify_quadric_decimation(face_count=self.faces)
        low, high = bounds.aabb.double().cpu().numpy().reshape(2, 3)
        mesh = trimesh.Trimesh(np.clip(mesh.vertices, low, high), mesh.faces)
        mesh.update_faces(mesh.nondegenerate_faces())
        mesh.remove_unreferenced_vertices()
        fields.check()
        inside = torch.from_numpy(np.array(mesh.vertices))
        scene = trimesh.Trimesh(bounds.space.points(inside).numpy(), mesh.faces, process=False)
        vertices = torch.from_numpy(np.array(scene.vertices))
        if maps is None:
            inwards, directions = -unit_normals(mesh), -unit_normals(scene)
            colours = vertex_colours(fields.after, bounds, inside, inwards, directions, fields.device)
        else:
            colours = fused_colours(fields, maps, vertices, 100 * BAND * _thickness(bounds))
        return trimesh.Trimesh(
            fields.in_units(vertices, self.units).numpy(),
            mesh.faces,
            vertex_colors=(colours * 255).round().byte().numpy(),
            process=False,
        )

    def _density_surface(self, fields: RunFields) -> trimesh.Trimesh:
        """The closed surface in the space's coordinates: what reaches the box's sides ends there."""
        bounds = fields.scene.bounds
        resolution = cubic_resolution(bounds.aabb, self.voxels)
        logits = np.full([n + 2 for n in resolution], -STEEPEST, dtype=np.float32)
        level = math.log(self.opacity / (1 - self.opacity))
        low, high = _inset(bounds.aabb)
        x, y, z = (
            torch.linspace(float(a), float(b), n) for a, b, n in zip(low, high, resolution, strict=True)
        )
        slab = torch.stack(torch.meshgrid(y, z, indexing="ij"), dim=-1).reshape(-1, 2)
        for i in track(range(len(x)), "field", unit="slab"):
            fields.check()
            positions = torch.cat([x[i].expand(len(slab), 1), slab], dim=1)
            density = densities(fields.after, bounds, positions, fields.device)
            logits[1 + i, 1:-1, 1:-1] = (_logit(density * _thickness(bounds)) - level).reshape(len(y), len(z))
        if not logits.min() < 0 < logits.max():
            raise UserError(
                f"the field is nowhere as dense as opacity={self.opacity} says: is the run finished? A lower opacity "
                "may find a surface"
            )
        np.clip(logits, -STEEPEST, STEEPEST, out=logits)
        vertices, faces, _, _ = marching_cubes(
            logits, 0.0, gradient_direction="ascent"
        )  # normals point to less
        unit = (vertices.astype(np.float64) - 1) / (np.array(resolution) - 1)
        start, end = bounds.aabb.double().cpu().numpy().reshape(2, 3)
        return trimesh.Trimesh(start + unit.clip(0, 1) * (end - start), faces)


def densities(renderer: Renderer, bounds: SceneBounds, positions: Tensor, device: torch.device) -> Tensor:
    """Density (n,) on the CPU at positions (n, 3) of the space, per unit of that."""
    found = []
    for chunk in positions.split(CHUNK):
        points = bounds.space.points(chunk).float().to(device)
        ahead = torch.zeros_like(points)
        ahead[:, 2] = -1
        found.append(renderer.field(points, ahead)[0].cpu())
    return torch.cat(found)


def vertex_colours(
    renderer: Renderer,
    bounds: SceneBounds,
    vertices: Tensor,
    inwards: Tensor,
    directions: Tensor,
    device: torch.device,
) -> Tensor:
    """Colours (n, 3) in [0, 1] on the CPU: what is seen of a surface from before it, composited across it.

    Args:
        vertices, inwards: (n, 3) where the surface is and where its inside lies, unit directions, in the space.
        directions: (n, 3) the latter in the world.
    """
    steps = torch.linspace(COLOUR_FROM, COLOUR_TO, COLOUR_STEPS, dtype=torch.float64) * _thickness(bounds)
    low, high = _inset(bounds.aabb.double().cpu())
    found = []
    starts = range(0, len(vertices), CHUNK // COLOUR_STEPS)
    for start in track(starts, "colours", unit="chunk", delay=QUICK):
        chosen = slice(start, start + CHUNK // COLOUR_STEPS)
        along = vertices[chosen, None] + steps[:, None] * inwards[chosen, None]
        inside = ((along >= low) & (along <= high)).all(-1)
        points = bounds.space.points(torch.minimum(torch.maximum(along, low), high))
        seen_along = directions[chosen, None].expand_as(points)
        density, colour = renderer.field(
            points.reshape(-1, 3).float().to(device), seen_along.reshape(-1, 3).float().to(device)
        )
        passed = density.cpu().view(inside.shape) * inside * float(steps[1] - steps[0])
        light = torch.exp(-(passed.cumsum(1) - passed))
        weights = light * -torch.expm1(-passed) + 1e-6  # where there is nothing: the mean
        weights = weights / weights.sum(dim=1, keepdim=True)
        found.append((weights[..., None] * colour.cpu().view(*inside.shape, 3)).sum(dim=1).clamp(0, 1))
    return torch.cat(found)


def without_small_parts(mesh: trimesh.Trimesh, share: float) -> trimesh.Trimesh:
    """The mesh without the connected parts that have less than a share of the largest one's area."""
    labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    areas = np.bincount(labels, weights=mesh.area_faces)
    kept = mesh.copy()
    kept.update_faces((areas >= share * areas.max())[labels])
    kept.remove_unreferenced_vertices()
    return kept


def figures_of(mesh: trimesh.Trimesh, units: Units) -> MeshFigures:
    """What there is to say of a mesh; where it is not closed, where that is."""
    edges, counts = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    ends = mesh.vertices[edges[counts != 2].reshape(-1)]
    box = [float(x) for x in (*ends.min(axis=0), *ends.max(axis=0))] if len(ends) else None
    return MeshFigures(
        len(mesh.vertices), len(mesh.faces), bool(mesh.is_watertight), len(ends) // 2, box, units
    )


def unit_normals(mesh: trimesh.Trimesh) -> Tensor:
    """Outward normals (n, 3) float64 of the vertices."""
    return torch.from_numpy(np.array(mesh.vertex_normals, dtype=np.float64))


def _thickness(bounds: SceneBounds) -> float:
    """A hundredth of the box's diagonal, in the space's units."""
    return 0.01 * float(torch.linalg.vector_norm(bounds.aabb[3:] - bounds.aabb[:3]))


def _inset(aabb: Tensor) -> tuple[Tensor, Tensor]:
    """The box's corners, a little inside of it: rounding does not take what lies between them out of the box."""
    margin = 1e-5 * (aabb[3:] - aabb[:3])
    return (aabb[:3] + margin).cpu(), (aabb[3:] - margin).cpu()


def _logit(passed: Tensor) -> np.ndarray:
    """log(exp(passed) - 1) for passed >= 0, no less than a large negative number."""
    passed = passed.double().clamp(min=1e-12)
    return (passed + torch.log(-torch.expm1(-passed))).numpy()
