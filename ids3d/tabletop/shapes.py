"""Where rays meet the shapes of the tabletop world, in closed form.

Each `hit_*` takes rays in the shape's own frame (it stands on z = 0 about the z axis) as origins and directions (3, n)
and gives the distance to the nearest hit in front (n,), `inf` where there is none, and the outward normal there (3, n).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ids3d.tabletop.scene import Object

Hit = tuple[Tensor, Tensor]
EPSILON = 1e-4  # a surface does not shade itself
INF = float("inf")


def hit_sphere(o: Tensor, d: Tensor, size: float) -> Hit:
    """A ball of radius `size`, resting on the floor."""
    oz = o[2] - size
    b = o[0] * d[0] + o[1] * d[1] + oz * d[2]
    c = o[0] * o[0] + o[1] * o[1] + oz * oz - size * size
    root = (b * b - c).clamp(min=0).sqrt()
    t = torch.where((b * b > c) & (-b - root > EPSILON), -b - root, INF)
    safe = torch.where(t < INF, t, 0.0)
    normal = torch.stack([o[0] + safe * d[0], o[1] + safe * d[1], oz + safe * d[2]]) / size
    return t, normal


def hit_cube(o: Tensor, d: Tensor, size: float) -> Hit:
    """A box with edges of 1.7 · size."""
    half = 0.85 * size
    centre = torch.tensor([0.0, 0.0, half]).unsqueeze(1)
    inverse = 1.0 / torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
    a, b = (centre - half - o) * inverse, (centre + half - o) * inverse
    near, axis = torch.minimum(a, b).max(dim=0)
    far = torch.maximum(a, b).min(dim=0).values
    t = torch.where((near < far) & (near > EPSILON), near, INF)
    normal = torch.zeros_like(d).scatter_(0, axis[None], 1.0) * -torch.sign(d)
    return t, normal


def hit_cylinder(o: Tensor, d: Tensor, size: float) -> Hit:
    """A cylinder of radius 0.78 · size and height 1.9 · size; its foot, on the floor, is never seen."""
    radius, height = 0.78 * size, 1.9 * size
    a = (d[0] * d[0] + d[1] * d[1]).clamp(min=1e-12)
    b = o[0] * d[0] + o[1] * d[1]
    c = o[0] * o[0] + o[1] * o[1] - radius * radius
    root = (b * b - a * c).clamp(min=0).sqrt()
    side = (-b - root) / a
    z = o[2] + side * d[2]
    side = torch.where((b * b > a * c) & (z > 0) & (z < height) & (side > EPSILON), side, INF)
    top = _disc(o, d, height, radius)
    t = torch.minimum(side, top)
    safe = torch.where(side < INF, side, 0.0)
    round_ = torch.stack([(o[0] + safe * d[0]) / radius, (o[1] + safe * d[1]) / radius, torch.zeros_like(z)])
    return t, torch.where(top < side, torch.tensor([[0.0], [0.0], [1.0]]), round_)


def hit_cone(o: Tensor, d: Tensor, size: float) -> Hit:
    """A cone of base radius `size` and height 2 · size, tip up."""
    height, slope = 2.0 * size, 0.5  # radius lost per unit of height
    h = height - o[2]
    a = d[0] * d[0] + d[1] * d[1] - slope * slope * d[2] * d[2]
    a = torch.where(a.abs() < 1e-9, torch.full_like(a, 1e-9), a)
    b = o[0] * d[0] + o[1] * d[1] + slope * slope * h * d[2]
    c = o[0] * o[0] + o[1] * o[1] - slope * slope * h * h
    root = (b * b - a * c).clamp(min=0).sqrt()
    t = torch.full_like(a, INF)
    for candidate in ((-b - root) / a, (-b + root) / a):
        z = o[2] + candidate * d[2]
        good = (b * b > a * c) & (z > 0) & (z < height) & (candidate > EPSILON)
        t = torch.where(good & (candidate < t), candidate, t)
    safe = torch.where(t < INF, t, 0.0)
    x, y = o[0] + safe * d[0], o[1] + safe * d[1]
    length = (x * x + y * y).sqrt().clamp(min=1e-9)
    scale = 1.0 / math.sqrt(1 + slope * slope)
    return t, torch.stack([x / length * scale, y / length * scale, torch.full_like(x, slope * scale)])


def _disc(o: Tensor, d: Tensor, height: float, radius: float) -> Tensor:
    """Distance to a horizontal disc about the z axis."""
    t = (height - o[2]) / torch.where(d[2].abs() < 1e-9, torch.full_like(d[2], 1e-9), d[2])
    x, y = o[0] + t * d[0], o[1] + t * d[1]
    return torch.where((x * x + y * y < radius * radius) & (t > EPSILON), t, INF)


HITS: dict[str, Callable[[Tensor, Tensor, float], Hit]] = {
    "cube": hit_cube,
    "sphere": hit_sphere,
    "cylinder": hit_cylinder,
    "cone": hit_cone,
}


def hit_object(thing: Object, o: Tensor, d: Tensor) -> Hit:
    """The nearest hit of world rays (3, n) with an object: distances (n,) and world normals (3, n)."""
    cos, sin = math.cos(math.radians(thing.turn)), math.sin(math.radians(thing.turn))
    local_o = _turn(o - torch.tensor([[thing.x], [thing.y], [0.0]]), cos, -sin)
    t, normal = HITS[thing.shape](local_o, _turn(d, cos, -sin), thing.size)
    return t, _turn(normal, cos, sin)


def _turn(v: Tensor, cos: float, sin: float) -> Tensor:
    return torch.stack([cos * v[0] - sin * v[1], sin * v[0] + cos * v[1], v[2]])
