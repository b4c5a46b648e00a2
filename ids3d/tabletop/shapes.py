"""Where rays meet the shapes of the tabletop world, in closed form, and the shapes' normals.

In a shape's own frame it stands on z = 0 about the z axis. Each `*_distance` takes rays in that frame, origins and unit
directions of shapes (3, ...) that broadcast against each other (many rays from one eye, many points towards one light),
and gives the distance to the nearest hit in front, `inf` where there is none. Each `*_normal` takes points (3, n) on
the surface and gives the outward normals there (3, n). All in the arguments' own precision.

Shapes of one size cover about as much of a picture, and their feet reach about as far, so that what takes another shape
need not seem nearer or farther.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ids3d.tabletop.scene import Object

EPSILON = 1e-4  # a surface does not shade itself
INF = float("inf")


def sphere_distance(o: Tensor, d: Tensor, size: float) -> Tensor:
    """A ball of radius `size`, resting on the floor."""
    oz = o[2] - size
    b = o[0] * d[0] + o[1] * d[1] + oz * d[2]
    squared = b * b - (o[0] * o[0] + o[1] * o[1] + oz * oz - size * size)
    t = -b - squared.clamp(min=0).sqrt()
    return torch.where((squared > 0) & (t > EPSILON), t, INF)


def sphere_normal(p: Tensor, size: float) -> Tensor:
    return torch.stack([p[0], p[1], p[2] - size]) / size


def cube_distance(o: Tensor, d: Tensor, size: float) -> Tensor:
    """A box with edges of 1.5 · size."""
    half = 0.75 * size
    near, far = _slab(o[0], d[0], half)
    for position, direction in ((o[1], d[1]), (o[2] - half, d[2])):
        a, b = _slab(position, direction, half)
        near, far = torch.maximum(near, a), torch.minimum(far, b)
    return torch.where((near < far) & (near > EPSILON), near, INF)


def _slab(position: Tensor, direction: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave what lies within `half` of zero."""
    inverse = 1.0 / _not_zero(direction)
    middle, reach = -position * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def cube_normal(p: Tensor, size: float) -> Tensor:
    half = 0.75 * size
    centred = torch.stack([p[0], p[1], p[2] - half])
    axis = centred.abs().argmax(dim=0, keepdim=True)
    return torch.zeros_like(p).scatter_(0, axis, centred.gather(0, axis).sign())


def cylinder_distance(o: Tensor, d: Tensor, size: float) -> Tensor:
    """A cylinder of radius 0.78 · size and height 1.9 · size; its foot, on the floor, is never seen."""
    radius, height = 0.78 * size, 1.9 * size
    a = (d[0] * d[0] + d[1] * d[1]).clamp(min=1e-12)
    b = o[0] * d[0] + o[1] * d[1]
    squared = b * b - a * (o[0] * o[0] + o[1] * o[1] - radius * radius)
    side = (-b - squared.clamp(min=0).sqrt()) / a
    z = o[2] + side * d[2]
    side = torch.where((squared > 0) & (z > 0) & (z < height) & (side > EPSILON), side, INF)
    return torch.minimum(side, _disc(o, d, height, radius))


def cylinder_normal(p: Tensor, size: float) -> Tensor:
    radius, height = 0.78 * size, 1.9 * size
    r = torch.hypot(p[0], p[1])
    top = (height - p[2]).abs() < (radius - r).abs()
    zero = torch.zeros_like(r)
    return torch.stack(
        [torch.where(top, zero, p[0] / radius), torch.where(top, zero, p[1] / radius), top.to(p)]
    )


def _disc(o: Tensor, d: Tensor, height: float, radius: float) -> Tensor:
    """Distance to a horizontal disc about the z axis."""
    t = (height - o[2]) / _not_zero(d[2])
    x, y = o[0] + t * d[0], o[1] + t * d[1]
    return torch.where((x * x + y * y < radius * radius) & (t > EPSILON), t, INF)


SLOPE = 0.3  # of the cone: radius lost per unit of height
CONE_HEIGHT = 3.3  # for size 1


def cone_distance(o: Tensor, d: Tensor, size: float) -> Tensor:
    """A cone of base radius 0.99 · size and height 3.3 · size, tip up; its foot, on the floor, is never seen."""
    height = CONE_HEIGHT * size
    h = height - o[2]
    a = _not_zero(d[0] * d[0] + d[1] * d[1] - SLOPE * SLOPE * d[2] * d[2])
    b = o[0] * d[0] + o[1] * d[1] + SLOPE * SLOPE * h * d[2]
    squared = b * b - a * (o[0] * o[0] + o[1] * o[1] - SLOPE * SLOPE * h * h)
    root = squared.clamp(min=0).sqrt()
    first, second = _of_cone(o, d, (-b - root) / a, height), _of_cone(o, d, (-b + root) / a, height)
    return torch.where(squared > 0, torch.minimum(first, second), INF)


def _of_cone(o: Tensor, d: Tensor, t: Tensor, height: float) -> Tensor:
    """Where the line meets the double cone at t: t, or inf if that is behind, below the floor or above the tip."""
    z = o[2] + t * d[2]
    return torch.where((z > 0) & (z < height) & (t > EPSILON), t, INF)


def cone_normal(p: Tensor, size: float) -> Tensor:
    scale = 1.0 / math.sqrt(1 + SLOPE * SLOPE)
    across = p[:2] * (scale / torch.hypot(p[0], p[1]).clamp(min=1e-9))
    return torch.cat([across, torch.full_like(p[2:], SLOPE * scale)])


def _not_zero(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1e-9, 1e-9, x)


@dataclass(frozen=True)
class Shape:
    """A shape's two functions, and the smallest ball about it: height of its centre and radius, for size 1."""

    distance: Callable[[Tensor, Tensor, float], Tensor]
    normal: Callable[[Tensor, float], Tensor]
    middle: float
    radius: float


SHAPE = {
    "cube": Shape(cube_distance, cube_normal, 0.75, 0.75 * math.sqrt(3)),
    "sphere": Shape(sphere_distance, sphere_normal, 1.0, 1.0),
    "cylinder": Shape(cylinder_distance, cylinder_normal, 0.95, math.hypot(0.78, 0.95)),
    "cone": Shape(cone_distance, cone_normal, 1.5015, 1.7985),
}


def distance_to(thing: Object, o: Tensor, d: Tensor) -> Tensor:
    """Distance along world rays, origins and unit directions (3, ...), to an object's nearest hit; `inf` for none."""
    return SHAPE[thing.shape].distance(_place(thing, o), _turn(d, -thing.turn), thing.size)


def normal_on(thing: Object, points: Tensor) -> Tensor:
    """World normals (3, n) of an object at points (3, n) on it."""
    return _turn(SHAPE[thing.shape].normal(_place(thing, points), thing.size), thing.turn)


def ball_about(thing: Object) -> tuple[tuple[float, float, float], float]:
    """Centre and radius, world units, of a ball that holds an object, a thousandth larger than it need be."""
    shape = SHAPE[thing.shape]
    return (thing.x, thing.y, shape.middle * thing.size), 1.001 * shape.radius * thing.size


def _place(thing: Object, points: Tensor) -> Tensor:
    return _turn(torch.stack([points[0] - thing.x, points[1] - thing.y, points[2]]), -thing.turn)


def _turn(v: Tensor, angle: float) -> Tensor:
    """Vectors (3, ...) turned about z by an angle in degrees."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return torch.stack([cos * v[0] - sin * v[1], sin * v[0] + cos * v[1], v[2]])
