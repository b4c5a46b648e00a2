"""Pictures, depth and masks of tabletop scenes: rays traced in closed form, Lambertian surfaces, one soft light.

Nothing shines or mirrors, so a surface point looks alike from everywhere, and a radiance field can represent a scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ids3d.cameras import Cameras
from ids3d.tabletop.scene import COLOURS, HEIGHT, ROOM, WALLS, Light, Object, Scene
from ids3d.tabletop.shapes import hit_object

AMBIENT = 0.58
DIRECT = 0.52
LIGHT_RADIUS = 5.0  # degrees; what makes the shadows soft
NOTHING, FLOOR, WALL, FIRST_OBJECT = -1, 0, 1, 2


@dataclass(frozen=True)
class Picture:
    """One view of a scene.

    Attributes:
        rgb: (h, w, 3) float32 in [0, 1], antialiased.
        depth: (h, w) distance along the ray through the pixel's centre, `inf` where it meets nothing.
        ids: (h, w) int64, what that ray meets: NOTHING, FLOOR, WALL (or ceiling), FIRST_OBJECT + i.
        opacity: (h, w) share of the pixel that shows anything at all (1 everywhere but without a room).
        coverage: (n_objects, h, w) share of the pixel that shows each object.
        floor: (h, w) share of the pixel that shows the floor.
    """

    rgb: Tensor
    depth: Tensor
    ids: Tensor
    opacity: Tensor
    coverage: Tensor
    floor: Tensor


def render(scene: Scene, camera: Cameras, *, supersampling: int = 2, room: bool = True) -> Picture:
    """Render a scene by one camera (a batch of one), with supersampling² rays a pixel; without a room, on black."""
    if len(camera) != 1:
        raise ValueError(f"render takes one camera, not {len(camera)}")
    height, width = camera.height, camera.width
    fine = camera.resized(height * supersampling, width * supersampling)
    o, d = _rays(fine)
    t, ids, normal = trace(scene, o, d, room)
    rgb = shade(scene, o + torch.where(t < math.inf, t, 0.0) * d, ids, normal)
    rgb = _shrink(rgb.reshape(3, fine.height, fine.width), supersampling).permute(1, 2, 0)
    fine_ids = ids.reshape(1, fine.height, fine.width)
    wanted = torch.arange(len(scene.objects)).view(-1, 1, 1) + FIRST_OBJECT
    coverage = _shrink((fine_ids == wanted).float(), supersampling)
    opacity = _shrink((fine_ids != NOTHING).float(), supersampling)[0]
    floor = _shrink((fine_ids == FLOOR).float(), supersampling)[0]
    depth, centre_ids, _ = trace(scene, *_rays(camera), room)
    shape = (height, width)
    return Picture(
        rgb.clamp(0, 1).contiguous(), depth.view(shape), centre_ids.view(shape), opacity, coverage, floor
    )


def _rays(camera: Cameras) -> tuple[Tensor, Tensor]:
    rays = camera.rays()
    return rays.origins.reshape(-1, 3).T.contiguous(), rays.directions.reshape(-1, 3).T.contiguous()


def _shrink(x: Tensor, factor: int) -> Tensor:
    return torch.nn.functional.avg_pool2d(x[None], factor)[0]


def trace(scene: Scene, o: Tensor, d: Tensor, room: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """What rays (3, n) meet first: distance (n,), id (n,) and normal (3, n)."""
    t = torch.full_like(d[0], math.inf)
    ids = torch.full(d[0].shape, NOTHING)
    normal = torch.zeros_like(d)
    if room:
        t, ids, normal = _trace_room(o, d)
    for index, thing in enumerate(scene.objects):
        t_object, normal_object = hit_object(thing, o, d)
        nearer = t_object < t
        t = torch.where(nearer, t_object, t)
        ids = torch.where(nearer, index + FIRST_OBJECT, ids)
        normal = torch.where(nearer, normal_object, normal)
    return t, ids, normal


def _trace_room(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From inside the box-shaped room: the plane through which each ray leaves."""
    low, high = torch.tensor([[-ROOM], [-ROOM], [0.0]]), torch.tensor([[ROOM], [ROOM], [HEIGHT]])
    direction = torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
    t, axis = (torch.where(direction > 0, high - o, low - o) / direction).min(dim=0)
    normal = torch.zeros_like(d).scatter_(0, axis[None], 1.0) * -torch.sign(direction)
    ids = torch.where((axis == 2) & (d[2] < 0), FLOOR, WALL)
    return t, ids, normal


def shade(scene: Scene, points: Tensor, ids: Tensor, normal: Tensor) -> Tensor:
    """The colour (3, n) of surface points (3, n): albedo times ambient and direct light with soft shadows."""
    albedo = torch.zeros_like(points)
    albedo = torch.where(ids == FLOOR, floor_albedo(scene.floor, points), albedo)
    albedo = torch.where(ids == WALL, torch.tensor(WALLS[scene.wall]).unsqueeze(1), albedo)
    for index, thing in enumerate(scene.objects):
        albedo = torch.where(
            ids == index + FIRST_OBJECT, torch.tensor(COLOURS[thing.colour]).unsqueeze(1), albedo
        )
    direct = direct_light(scene, points + 1e-3 * normal, normal)
    # A little light comes from above rather than from all sides, so that faces turned away still differ.
    ambient = AMBIENT * (0.88 + 0.12 * normal[2])
    return albedo * (ambient + DIRECT * scene.light.strength * direct)


def direct_light(scene: Scene, points: Tensor, normal: Tensor) -> Tensor:
    """How much of the round light reaches each point (n,), times the cosine at which it falls there."""
    directions = light_directions(scene.light)
    centre = torch.stack(directions).mean(0)
    shadow = torch.zeros(len(directions), points.shape[1], dtype=torch.bool)
    for thing in scene.objects:
        near = _may_be_shaded(thing, points, centre / centre.norm()).nonzero()[:, 0]
        start = points[:, near]
        for row, direction in zip(shadow, directions, strict=True):
            hit = hit_object(thing, start, direction.unsqueeze(1).expand_as(start))[0] < math.inf
            row[near] |= hit
    facing = (torch.stack(directions) @ normal).clamp(min=0)
    return torch.where(shadow, 0.0, facing).mean(0)


def _may_be_shaded(thing: Object, points: Tensor, light: Tensor) -> Tensor:
    """Whether a point (3, n) could lie in an object's (half-)shadow: a bound by the ball about the object."""
    radius = 1.5 * thing.size
    away = torch.tensor([[thing.x], [thing.y], [thing.size]]) - points
    along = (away * light.unsqueeze(1)).sum(0)
    squared = (away * away).sum(0)
    distance = squared.sqrt()
    across = (squared - along * along).clamp(min=0).sqrt()
    widening = 1.2 * math.tan(math.radians(LIGHT_RADIUS)) * distance
    return (across < radius + widening) & (along > -radius)


def light_directions(light: Light, count: int = 8) -> list[Tensor]:
    """Unit vectors to `count` points spread over the round light (a sunflower pattern)."""
    a, e = math.radians(light.azimuth), math.radians(light.elevation)
    centre = torch.tensor([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    side = torch.tensor([-math.sin(a), math.cos(a), 0.0])
    up = torch.linalg.cross(centre, side)
    radius = math.tan(math.radians(LIGHT_RADIUS))
    points = []
    for i in range(count):
        r, angle = radius * math.sqrt((i + 0.5) / count), i * 2.3999632
        point = centre + r * (math.cos(angle) * side + math.sin(angle) * up)
        points.append(point / point.norm())
    return points


def floor_albedo(floor: str, points: Tensor) -> Tensor:
    """The floor's own colour (3, n) at points (3, n); patterns are in world coordinates."""
    x, y = points[0], points[1]
    if floor == "grey":
        return torch.tensor([0.46, 0.46, 0.48]).unsqueeze(1).expand_as(points)
    if floor == "checkered":
        dark = ((x / 0.5).floor() + (y / 0.5).floor()) % 2 == 0
        return torch.where(dark, 0.16, 0.82).expand_as(points)
    if floor == "wooden":
        grain = 0.5 + 0.5 * torch.sin(14.0 * y + 1.4 * torch.sin(2.1 * x))
        return _mix((0.40, 0.23, 0.11), (0.62, 0.39, 0.20), grain)
    if floor == "grassy":
        tufts = 0.5 + 0.25 * (
            torch.sin(9.0 * x + 2 * torch.sin(3 * y)) + torch.sin(8.0 * y + 2 * torch.sin(2.7 * x))
        )
        return _mix((0.16, 0.33, 0.08), (0.33, 0.53, 0.15), tufts)
    raise ValueError(f"no floor {floor!r} in the tabletop world")


def _mix(a: tuple[float, float, float], b: tuple[float, float, float], share: Tensor) -> Tensor:
    low, high = torch.tensor(a).unsqueeze(1), torch.tensor(b).unsqueeze(1)
    return low + (high - low) * share
