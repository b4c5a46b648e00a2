"""Fields that are known: a coloured ball, in closed form and on a grid, before cameras on an arc."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ids3d.cameras import Views
from ids3d.models.geometry.grid import GridGeometry
from ids3d.models.renderers.occupancy import OccupancyRenderer
from ids3d.scene import Scene, SceneBounds, Similarity
from ids3d.space import BOX, NDC, Space
from ids3d.systems.export.fields import RunFields
from tests.systems import tiny_scene

CENTRE, RADIUS = torch.tensor([0.1, -0.05, 0.08]), 0.5
AABB = torch.tensor([-1.0, -0.9, -0.8, 1.0, 0.9, 0.8])
NDC_SPACE = NDC(torch.eye(3), torch.tensor([0.0, 0.0, 3.0]), near=2.0, depth=1.5)
NDC_AABB = torch.tensor([-0.4, -0.4, -1.0, 0.4, 0.4, 0.0])  # world depths 2 to 6 before z = 3
TURN = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]], dtype=torch.float64)


class Ball(nn.Module):
    """A ball of the world whose opacity over a hundredth of the box is half at its surface, in any space."""

    def __init__(self, bounds: SceneBounds, sharpness: float = 60.0, centre: Tensor = CENTRE) -> None:
        super().__init__()
        self.space, self.sharpness, self.centre = bounds.space, sharpness, centre
        self.thickness = 0.01 * float((bounds.aabb[3:] - bounds.aabb[:3]).norm())

    def density_grid(self) -> None:
        return None

    def detail(self) -> None:
        return None

    def density(self, positions: Tensor) -> Tensor:
        inside = RADIUS - (self.space.points(positions) - self.centre.to(positions)).norm(dim=-1)
        return F.softplus(self.sharpness * inside) / self.thickness

    def forward(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(positions), colours(self.space.points(positions))


class Fog(nn.Module):
    """All that lies behind the plane z = start, as dense everywhere."""

    def __init__(self, start: float, density: float) -> None:
        super().__init__()
        self.start, self.amount = start, density

    def density_grid(self) -> None:
        return None

    def density(self, positions: Tensor) -> Tensor:
        return self.amount * (positions[:, 2] < self.start).float()

    def forward(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(positions), colours(positions)


def colours(points: Tensor) -> Tensor:
    """(n, 3): they differ from place to place, gently."""
    return torch.sigmoid(1.5 * (points - CENTRE.to(points)))


def made_scene(space: Space = BOX, background: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Scene:
    cameras = tiny_scene.cameras()
    images = torch.rand(
        len(cameras), cameras.height, cameras.width, 3, generator=torch.Generator().manual_seed(0)
    )
    views = Views(images, cameras, tuple(f"{i:02d}" for i in range(len(cameras))))
    aabb = AABB if space is BOX else NDC_AABB
    held_out = torch.arange(len(cameras)) % 4 == 0
    return Scene(
        train=views[~held_out],
        test=views[held_out],
        bounds=SceneBounds(aabb, 0.5, 6.0, background, space=space),
        layout="forward-facing",
        to_scene=Similarity(TURN, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), 0.25),
    )


def renderer_of(geometry: nn.Module, bounds: SceneBounds, steps: int = 512) -> OccupancyRenderer:
    return OccupancyRenderer(OccupancyRenderer.Config(steps=steps, environment=0), geometry, bounds)  # type: ignore[arg-type]


def ball(space: Space = BOX, sharpness: float = 60.0, centre: Tensor = CENTRE) -> RunFields:
    """A run whose field is the ball in closed form."""
    scene = made_scene(space)
    geometry = Ball(scene.bounds, sharpness, centre)
    return RunFields(scene, renderer_of(geometry, scene.bounds), None, torch.device("cpu"))


def grid_ball(shift: float = 0.0) -> OccupancyRenderer:
    """The ball on a grid, its occupancy found out; its colours are shifted by so much before the sigmoid."""
    bounds = made_scene().bounds
    geometry = GridGeometry(GridGeometry.Config(voxels=80**3), bounds)
    axes = [
        torch.linspace(float(a), float(b), n)
        for a, b, n in zip(AABB[:3], AABB[3:], geometry.resolution, strict=True)
    ]
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    inside = RADIUS - (nodes - CENTRE).norm(dim=-1)
    with torch.no_grad():
        geometry.raw_density[:, 0] = (
            120 * inside
            - geometry.shift
            + math.log(geometry.unit / (0.01 * float((AABB[3:] - AABB[:3]).norm())))
        )
        geometry.raw_appearance[:] = 1.5 * (nodes - CENTRE) + shift
    renderer = renderer_of(geometry, bounds)
    renderer.before_step(0, torch.Generator().manual_seed(0))
    return renderer
