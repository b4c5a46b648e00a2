"""Scenes of the tabletop world: one to three simple objects in a closed room, made from a seed.

The world is right-handed with z up; lengths are in the scene's own units, angles in degrees. The room is the box
[-ROOM, ROOM]² × [0, HEIGHT]: all that a camera inside it sees is real geometry, so that each view of a scene is a view
of one scene.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from ids3d.cameras import Cameras, look_at
from ids3d.tabletop.world import LIGHT, World

ROOM = 3.0  # half the room's width
HEIGHT = 3.0  # of the room
SHAPES = ("cube", "sphere", "cylinder", "cone")
SIZES = {1: (0.29, 0.31), 2: (0.29, 0.31), 3: (0.21, 0.23)}
"""Between which the sizes of one, two or three objects lie: about one for all, for no caption speaks of it. What takes
another shape then has one likely size, that of what was there. Three have no room for it."""
TURN = 8.0
"""Degrees, at most, that an object is turned from square to the room, for the same reason: one likely turn."""
FIELD_OF_VIEW = 43.0  # degrees, of both sides of a square picture

HELD_OUT = 1_000_000
"""Seeds below this one are for training, those from it on for evaluation; the two never meet."""

T = TypeVar("T")


@dataclass(frozen=True)
class Object:
    """A shape that stands on the floor at (x, y); `size` is about half its width, `turn` its angle about the vertical.

    `shape` is one of SHAPES and `colour` one of its world's colours.
    """

    shape: str
    colour: str
    size: float
    x: float
    y: float
    turn: float = 0.0


@dataclass(frozen=True)
class Light:
    """A round area light at infinity: `azimuth` and `elevation` of its centre; `strength` scales the direct part."""

    azimuth: float = 60.0
    elevation: float = 58.0
    strength: float = 1.0


@dataclass(frozen=True)
class TabletopScene:
    """Everything that a picture of the world depends on, but the camera."""

    objects: tuple[Object, ...]
    floor: str = "wooden"
    wall: str = "cream"
    light: Light = Light()
    world: World = LIGHT


class PortableRandom:
    """Draws from one seed by `random.Random.random` alone, whose sequence Python guarantees on every machine."""

    def __init__(self, seed: int, purpose: str) -> None:
        self._random = random.Random(f"{purpose}/{seed}").random

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self._random()

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self._random() * len(options))]


def footprint(thing: Object) -> float:
    """The radius of a circle on the floor that the object stands in: no round shape lacks the room of another."""
    return thing.size * (1.07 if thing.shape == "cube" else 1.0)


def sample_scene(seed: int, objects: int | None = None, world: World = LIGHT) -> TabletopScene:
    """A world's scene of a seed, with one, two or three objects (45, 45 and 10 %) unless `objects` says how many.

    No two objects share both shape and colour, so a caption always tells them apart, and none touch.
    """
    rng = PortableRandom(seed, "scene")
    drawn = rng.uniform(0, 1)
    count = objects if objects is not None else (1 if drawn < 0.45 else 2 if drawn < 0.9 else 3)
    if not 1 <= count <= 3:
        raise ValueError(f"a tabletop scene holds one to three objects, not {count}")
    placed: list[Object] = []
    while len(placed) < count:
        radius, angle = 0.62 * math.sqrt(rng.uniform(0, 1)), rng.uniform(0, 2 * math.pi)
        if count == 1:
            radius *= 0.6
        thing = Object(
            shape=rng.choice(SHAPES),
            colour=rng.choice(tuple(world.colours)),
            size=rng.uniform(*SIZES[count]),
            x=radius * math.cos(angle),
            y=radius * math.sin(angle),
            turn=rng.uniform(-TURN, TURN),
        )
        if all(can_stand_beside(thing, other) for other in placed):
            placed.append(thing)
        elif len(placed) > 0 and rng.uniform(0, 1) < 0.05:
            placed.clear()  # a first object in the middle can leave no room for the others
    light = Light(rng.uniform(0, 360), rng.uniform(50, 68), rng.uniform(0.9, 1.1))
    floor, wall = rng.choice(tuple(world.floors)), rng.choice(tuple(world.walls))
    return TabletopScene(tuple(placed), floor, wall, light, world)


def can_stand_beside(a: Object, b: Object) -> bool:
    """Whether the two neither touch nor share both shape and colour."""
    apart = math.hypot(a.x - b.x, a.y - b.y) > footprint(a) + footprint(b) + 0.06
    return apart and (a.shape, a.colour) != (b.shape, b.colour)


def orbit(
    azimuths: Sequence[float],
    elevations: Sequence[float],
    distances: Sequence[float],
    size: int,
    targets: Sequence[tuple[float, float, float]] | None = None,
) -> Cameras:
    """Cameras at the given angles (degrees) and distances from their targets, with square pictures of `size` pixels."""
    targets = targets or [(0.0, 0.0, 0.22)] * len(azimuths)
    poses = []
    for azimuth, elevation, distance, target in zip(azimuths, elevations, distances, targets, strict=True):
        a, e = math.radians(azimuth), math.radians(elevation)
        offset = (math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e))
        eye = [t + distance * o for t, o in zip(target, offset, strict=True)]
        # In double precision, so that once rounded they are the same on every machine.
        poses.append(look_at(*torch.tensor([eye, target, (0.0, 0.0, 1.0)], dtype=torch.float64)).float())
    focal = torch.full((len(poses),), 0.5 * size / math.tan(math.radians(FIELD_OF_VIEW) / 2))
    centre = torch.full((len(poses),), size / 2)
    return Cameras(torch.stack(poses), focal, focal, centre, centre, size, size)


def sample_camera(seed: int, scene: TabletopScene, size: int = 64) -> Cameras:
    """The camera of a seed: from any side, but no object right behind another, so that a picture shows its caption.

    Where a scene has no such side, it is the first one drawn that comes near enough: each draw asks for less.
    """
    rng = PortableRandom(seed, "camera")
    gap = 0.75
    while True:
        azimuth, elevation = rng.uniform(0, 360), rng.uniform(16, 44)
        distance = rng.uniform(2.25, 2.75)
        target = (rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1), rng.uniform(0.15, 0.3))
        if smallest_gap(scene, azimuth) >= gap:
            return orbit([azimuth], [elevation], [distance], size, [target])
        gap *= 0.98


def smallest_gap(scene: TabletopScene, azimuth: float) -> float:
    """How far apart the two closest objects stand, sideways, for a viewer at the azimuth (degrees).

    In units of the sum of their sizes; infinite for a single object.
    """
    a = math.radians(azimuth)
    across = [-thing.x * math.sin(a) + thing.y * math.cos(a) for thing in scene.objects]
    sizes = [thing.size for thing in scene.objects]
    gaps = [abs(across[i] - across[j]) / (sizes[i] + sizes[j]) for i in range(len(across)) for j in range(i)]
    return min(gaps, default=math.inf)


def middle(scene: TabletopScene) -> tuple[float, float, float]:
    """A point amid the objects, at most 0.35 from the room's axis, for cameras to look at."""
    x, y = (
        sum(values) / len(values) for values in ([o.x for o in scene.objects], [o.y for o in scene.objects])
    )
    scale = min(1.0, 0.35 / max(math.hypot(x, y), 1e-9))
    return scale * x, scale * y, 0.22


def open_side(scene: TabletopScene) -> float:
    """The azimuth, squarely before one of the walls, from which the objects stand side by side rather than in a row."""
    return max((0.0, 90.0, 180.0, 270.0), key=lambda azimuth: round(smallest_gap(scene, azimuth), 6))


def forward_cameras(
    seed: int,
    count: int,
    size: int,
    azimuth: float = 0.0,
    spread: float = 32.0,
    target: tuple[float, float, float] = (0.0, 0.0, 0.22),
) -> Cameras:
    """Forward-facing cameras: a jittered arc of ±spread degrees about the azimuth, at several heights.

    Inside the room for targets within 0.4 of its axis. They begin a sixth into the arc, so that of 24 every eighth,
    which is held out, stands amid others: of what only its ends see nothing can be known.
    """
    rng = PortableRandom(seed, "forward")
    along = [(i + count // 6) % count for i in range(count)]
    azimuths = [azimuth + spread * (2 * (i + 0.5) / count - 1) + rng.uniform(-2, 2) for i in along]
    elevations = [(22.0, 36.0, 29.0)[i % 3] + rng.uniform(-3, 3) for i in range(count)]
    distances = [rng.uniform(2.35, 2.65) for _ in range(count)]
    return orbit(azimuths, elevations, distances, size, [target] * count)


def around_cameras(seed: int, count: int, size: int) -> Cameras:
    """Cameras all around the scene, at golden-angle azimuths."""
    rng = PortableRandom(seed, "around")
    azimuths = [(rng.uniform(-4, 4) + i * 137.50776) % 360 for i in range(count)]
    return orbit(azimuths, [rng.uniform(18, 44) for _ in range(count)], [2.5] * count, size)
