"""TabletopDataset, depth and masks of tabletop scenes: rays traced in closed form, Lambertian surfaces, one soft light.

Nothing shines or mirrors, so a surface point looks alike from everywhere, and a radiance field can represent a scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ids3d.cameras import Cameras
from ids3d.errors import UserError
from ids3d.lenses import Distortion
from ids3d.tabletop.scene import HEIGHT, ROOM, Light, Object, TabletopScene
from ids3d.tabletop.shapes import ball_about, distance_to, normal_on

LIGHT_RADIUS = 5.0  # degrees; what makes the shadows soft
NOTHING, FLOOR, WALL, FIRST_OBJECT = -1, 0, 1, 2


@dataclass(frozen=True)
class TabletopRender:
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


def render(
    scene: TabletopScene,
    camera: Cameras,
    *,
    supersampling: int = 2,
    room: bool = True,
    distortion: Distortion | None = None,
) -> TabletopRender:
    """Render a scene by one camera (a batch of one), with supersampling² rays a pixel; without a room, on black.

    Computed in double precision: which side of an edge a ray falls on is then the same on every machine. A distortion
    is that of the camera's lens; the depth is along the rays that it bends.
    """
    if len(camera) != 1:
        raise ValueError(f"render takes one camera, not {len(camera)}")
    height, width, s = camera.height, camera.width, supersampling
    o, d = rays_of(camera.resized(height * s, width * s), distortion)
    t, ids, normal = trace(scene, o, d, room)
    rgb = shade(scene, o + torch.where(t < math.inf, t, 0.0) * d, ids, normal)
    shown = [ids == what for what in (FLOOR, *range(FIRST_OBJECT, FIRST_OBJECT + len(scene.objects)))]
    shares = torch.stack([*rgb.float(), *(share.float() for share in (ids != NOTHING, *shown))])
    small = _shrink(shares.view(-1, height * s, width * s), s)
    depth, centre_ids, _ = trace(scene, *rays_of(camera, distortion), room)
    return TabletopRender(
        rgb=small[:3].clamp(0, 1).permute(1, 2, 0).contiguous(),
        depth=depth.float().view(height, width),
        ids=centre_ids.view(height, width),
        opacity=small[3],
        coverage=small[5:],
        floor=small[4],
    )


def rays_of(camera: Cameras, distortion: Distortion | None = None) -> tuple[Tensor, Tensor]:
    """Origin (3, 1) and directions (3, h w) of the rays of one camera, float64: `Cameras.rays` for less work.

    Raises UserError: the distortion shows some pixel nothing at all.
    """
    c2w = camera.c2w[0].double()
    x = (torch.arange(camera.width) + 0.5 - camera.cx.double()) / camera.fx.double()
    y = ((torch.arange(camera.height) + 0.5 - camera.cy.double()) / camera.fy.double())[:, None]
    if distortion is not None:
        x, y = distortion.undistort(torch.stack(torch.broadcast_tensors(x, y), dim=-1)).unbind(-1)
        if not bool(x.isfinite().all()):
            raise UserError(
                f"with {distortion}, there are pixels that show nothing: choose a weaker distortion"
            )
    right, up, back, eye = (axis.view(3, 1, 1) for axis in c2w.unbind(1))
    d = (right * x - up * y - back).view(3, -1)
    return eye.view(3, 1), d / (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt()


def _shrink(x: Tensor, factor: int) -> Tensor:
    """Means over squares of factor x factor: (c, h, w) to (c, h / factor, w / factor)."""
    if factor == 1:
        return x
    parts = [x[:, i::factor, j::factor] for i in range(factor) for j in range(factor)]
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total / len(parts)


def trace(scene: TabletopScene, o: Tensor, d: Tensor, room: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """What rays meet first: distance (n,), id (n,) and normal (3, n).

    Args:
        scene: the scene.
        o: origins (3, n), or (3, 1) for rays from one point.
        d: unit directions (3, n).
        room: whether floor, walls and ceiling are there; origins are inside the room then.
    """
    if room:
        t, ids, normal = _trace_room(o, d)
    else:
        t, ids = torch.full_like(d[0], math.inf), torch.full(d[0].shape, NOTHING)
        normal = torch.zeros_like(d)
    for index, thing in enumerate(scene.objects):
        candidates = _may_hit(thing, o, d).nonzero()[:, 0]
        distance = distance_to(thing, _pick(o, candidates), _pick(d, candidates))
        nearer = distance < t[candidates]
        met = candidates[nearer]
        t[met], ids[met] = distance[nearer], index + FIRST_OBJECT
    for index, thing in enumerate(scene.objects):
        met = (ids == index + FIRST_OBJECT).nonzero()[:, 0]
        normal.index_copy_(1, met, normal_on(thing, _pick(o, met) + t[met] * _pick(d, met)))
    return t, ids, normal


def _pick(v: Tensor, index: Tensor) -> Tensor:
    """Columns of (3, n); (3, 1) stands for any of them."""
    return v if v.shape[1] == 1 else v.index_select(1, index)


def _may_hit(thing: Object, o: Tensor, d: Tensor) -> Tensor:
    """Whether rays pass through the ball about an object: (n,) bool."""
    centre, radius = ball_about(thing)
    x, y, z = (c - v for c, v in zip(centre, o, strict=True))
    along = x * d[0] + y * d[1] + z * d[2]
    return x * x + y * y + z * z - along * along < radius * radius


def _trace_room(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From inside the box-shaped room: the plane through which each ray leaves."""
    t, ids, normal = torch.full_like(d[0], math.inf), torch.full(d[0].shape, WALL), torch.zeros_like(d)
    nearest = torch.full(d[0].shape, 0)
    for axis, (low, high) in enumerate(((-ROOM, ROOM), (-ROOM, ROOM), (0.0, HEIGHT))):
        direction = torch.where(d[axis].abs() < 1e-9, 1e-9, d[axis])
        distance = (torch.where(direction > 0, high, low) - o[axis]) / direction
        nearer = distance < t
        t = torch.where(nearer, distance, t)
        nearest.masked_fill_(nearer, axis)
    for axis in range(3):
        normal[axis] = torch.where(nearest == axis, -d[axis].sign(), 0.0)
    ids.masked_fill_((nearest == 2) & (d[2] < 0), FLOOR)
    return t, ids, normal


def shade(scene: TabletopScene, points: Tensor, ids: Tensor, normal: Tensor) -> Tensor:
    """The colour (3, n) of surface points (3, n): albedo times ambient and direct light with soft shadows."""
    nothing = (0.0, 0.0, 0.0)  # also where the floor's pattern comes, one before the wall
    world = scene.world
    things = (world.colours[thing.colour] for thing in scene.objects)
    palette = [world.walls[scene.wall], *things, nothing, nothing]
    albedo = torch.tensor(palette, dtype=points.dtype).T.index_select(1, (ids - WALL) % len(palette))
    floor = (ids == FLOOR).nonzero()[:, 0]
    albedo.index_copy_(1, floor, world.floors[scene.floor](points.index_select(1, floor)))
    wall = (ids == WALL).nonzero()[:, 0]
    papered = albedo.index_select(1, wall) * world.wallpaper(points.index_select(1, wall))
    albedo.index_copy_(1, wall, papered)
    direct = direct_light(scene, points + 1e-3 * normal, normal)
    # A little light comes from above rather than from all sides, so that faces turned away still differ.
    ambient = world.ambient * (0.88 + 0.12 * normal[2])
    return albedo * (ambient + world.direct * scene.light.strength * direct)


def direct_light(scene: TabletopScene, points: Tensor, normal: Tensor) -> Tensor:
    """How much of the round light reaches each point (n,), times the cosine at which it falls there."""
    directions = light_directions(scene.light).to(points)
    centre = directions.mean(0)
    a, b, c = centre.tolist()
    light = a * normal[0] + b * normal[1] + c * normal[2]
    reach = float((directions - centre).norm(dim=1).max())
    # Where all of the light is before a surface, the mean of the cosines is the cosine of the mean; behind it, 0.
    exact = light.abs() <= reach
    shaded = [_may_be_shaded(thing, points, directions) & (light > -reach) for thing in scene.objects]
    for may_be in shaded:
        exact |= may_be
    near = exact.nonzero()[:, 0]
    start, facing = points.index_select(1, near), (directions @ normal.index_select(1, near)).clamp(min=0)
    for thing, may_be in zip(scene.objects, shaded, strict=True):
        mine = may_be[near].nonzero()[:, 0]
        free = distance_to(thing, start.index_select(1, mine)[:, None], directions.T[:, :, None]) == math.inf
        facing.index_copy_(1, mine, facing.index_select(1, mine) * free)
    return light.clamp(min=0).index_copy(0, near, facing.mean(0))


def _may_be_shaded(thing: Object, points: Tensor, directions: Tensor) -> Tensor:
    """Whether points (3, n) could lie in an object's (half-)shadow: a bound by the ball about the object.

    The light's directions (k, 3) lie within some angle of their mean. So if a ray towards any of them passes through
    the ball, the ray towards the mean passes no farther off than its radius and what that angle makes of the distance.
    """
    light = torch.nn.functional.normalize(directions.mean(0), dim=0)
    widest = float((directions - light).norm(dim=1).max())
    centre, radius = ball_about(thing)
    a, b, c = light.tolist()
    x, y, z = (p - v for p, v in zip(centre, points, strict=True))
    along = a * x + b * y + c * z
    squared = x * x + y * y + z * z
    bound = radius + widest * squared.sqrt()
    return (squared - along * along < bound * bound) & (along > -radius)


def light_directions(light: Light, count: int = 8) -> Tensor:
    """Unit vectors (count, 3) to points spread over the round light (a sunflower pattern), float64."""
    a, e = math.radians(light.azimuth), math.radians(light.elevation)
    axes = torch.tensor(
        [
            [math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)],
            [-math.sin(a), math.cos(a), 0.0],
            [-math.sin(e) * math.cos(a), -math.sin(e) * math.sin(a), math.cos(e)],
        ],
        dtype=torch.float64,
    )
    radius = math.tan(math.radians(LIGHT_RADIUS))
    spread = [(radius * math.sqrt((i + 0.5) / count), i * 2.3999632) for i in range(count)]
    weights = [[1.0, r * math.cos(angle), r * math.sin(angle)] for r, angle in spread]
    return torch.nn.functional.normalize(torch.tensor(weights, dtype=torch.float64) @ axes, dim=1)
