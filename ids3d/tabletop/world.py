"""The two tabletop worlds: which colours, floors and walls there are, and how they look.

In a world of light floors every object is darker than what stands around it, in each of red, green and blue. From the
floor all objects' colours then lie in one direction, so an object that changes its colour is never nearer to bare floor
than to its new colour (`cosines`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ids3d.errors import UserError
from ids3d.reading import read_json

Colour = tuple[float, float, float]  # albedo: linear red, green and blue in [0, 1]
Pattern = Callable[[Tensor], Tensor]  # of world points (3, n): what depends on the place, (3, n) or (n,)


@dataclass(frozen=True, eq=False, repr=False)
class World:
    """The names that captions and scenes use, and what each looks like.

    Attributes:
        name: of the world itself.
        colours: of objects.
        floors: the albedo (3, n) at points (3, n) of each floor.
        walls: the walls' colours; their names are in no caption.
        wallpaper: what the walls' colour is multiplied by, (n,) at points (3, n).
        ambient: the light that comes from all sides.
        direct: the light of the lamp, where it falls squarely on a surface.
        relations: how captions say where the first of two objects is, seen from the camera.
    """

    name: str
    colours: Mapping[str, Colour]
    floors: Mapping[str, Pattern]
    walls: Mapping[str, Colour]
    wallpaper: Pattern
    ambient: float
    direct: float
    relations: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<world {self.name}>"


def plain(*albedo: float) -> Pattern:
    """The same colour everywhere."""
    return lambda points: torch.tensor(albedo, dtype=points.dtype)[:, None].expand_as(points)


def wood(dark: Colour, light: Colour) -> Pattern:
    """Wavy stripes along x, two to a unit of length."""
    return lambda points: _mix(
        dark, light, 0.5 + 0.5 * torch.sin(14.0 * points[1] + 1.4 * torch.sin(2.1 * points[0]))
    )


def planks(dark: Colour, light: Colour) -> Pattern:
    """Boards along x, 0.4 wide and each of its own tone, with a wavy grain and a dark seam between them."""

    def albedo(points: Tensor) -> Tensor:
        x, y = points[0], points[1] / 0.4
        board = y.floor()
        tone = 0.66 + 0.2 * torch.sin(2.4 * board)
        grain = 0.14 * torch.sin(11.0 * y + 1.4 * torch.sin(2.1 * x + 1.7 * board))
        seam = torch.exp(-(((y - y.round()) / 0.045) ** 2))
        return _mix(dark, light, (tone + grain) * (1 - 0.9 * seam))

    return albedo


def checks(dark: Colour, light: Colour) -> Pattern:
    """Squares of half a unit."""

    def albedo(points: Tensor) -> Tensor:
        even = ((points[0] / 0.5).floor() + (points[1] / 0.5).floor()) % 2 == 0
        low, high = (torch.tensor(colour)[:, None] for colour in (dark, light))
        return torch.where(even, low, high).to(points)

    return albedo


def tufts(dark: Colour, light: Colour) -> Pattern:
    """Soft spots, a unit or less apart."""

    def albedo(points: Tensor) -> Tensor:
        x, y = points[0], points[1]
        waves = torch.sin(9.0 * x + 2 * torch.sin(3 * y)) + torch.sin(8.0 * y + 2 * torch.sin(2.7 * x))
        return _mix(dark, light, 0.5 + 0.25 * waves)

    return albedo


def veins(dark: Colour, light: Colour) -> Pattern:
    """Thin dark bends on a light, faintly cloudy ground: pictures do not tell the depth of what is quite plain."""

    def albedo(points: Tensor) -> Tensor:
        x, y = points[0], points[1]
        bend = torch.sin(3.1 * x + 2.2 * y + 1.6 * torch.sin(2.3 * y - 1.1 * x) + torch.sin(4.1 * x + 0.5))
        clouds = torch.sin(5 * x + 2 * torch.sin(2.6 * y + 0.7)) * torch.sin(
            4.3 * y + 1.5 * torch.sin(3.1 * x)
        )
        return _mix(dark, light, 1 - torch.exp(-10 * bend * bend)) * (0.96 + 0.04 * clouds)

    return albedo


def _mix(a: Colour, b: Colour, share: Tensor) -> Tensor:
    low, high = (torch.tensor(colour, dtype=share.dtype).unsqueeze(1) for colour in (a, b))
    return low + (high - low) * share


def unpapered(points: Tensor) -> Tensor:
    """Ones: walls of one colour."""
    return torch.ones_like(points[0])


def striped(points: Tensor) -> Tensor:
    """Upright stripes, so that no wall is without anything to tell its depth by."""
    along = points[0] + points[1]  # on each of the four walls one of them is constant
    return 0.92 + 0.08 * torch.sin(6.0 * along + 1.5 * torch.sin(2.5 * points[2]))


FORMER = World(
    name="former",
    colours={
        "red": (0.80, 0.08, 0.07),
        "green": (0.10, 0.52, 0.14),
        "blue": (0.09, 0.20, 0.78),
        "yellow": (0.93, 0.80, 0.10),
        "purple": (0.48, 0.12, 0.62),
        "orange": (0.93, 0.44, 0.05),
        "cyan": (0.10, 0.68, 0.76),
        "white": (0.92, 0.92, 0.90),
    },
    floors={
        "wooden": wood((0.40, 0.23, 0.11), (0.62, 0.39, 0.20)),
        "checkered": checks((0.16, 0.16, 0.16), (0.82, 0.82, 0.82)),
        "grey": plain(0.46, 0.46, 0.48),
        "grassy": tufts((0.16, 0.33, 0.08), (0.33, 0.53, 0.15)),
    },
    walls={
        "sand": (0.76, 0.71, 0.62),
        "slate": (0.56, 0.62, 0.69),
        "lilac": (0.69, 0.66, 0.74),
        "mint": (0.62, 0.72, 0.67),
    },
    wallpaper=unpapered,
    ambient=0.58,
    direct=0.52,
)
"""The world of the prior that shipped before: dark floors, pictures of 64 pixels."""

LIGHT = World(
    name="light",
    colours={
        "red": (0.68, 0.05, 0.05),
        "green": (0.06, 0.43, 0.12),
        "blue": (0.06, 0.15, 0.57),
        "yellow": (0.80, 0.64, 0.04),
        "purple": (0.40, 0.08, 0.50),
        "orange": (0.80, 0.34, 0.03),
        "cyan": (0.05, 0.52, 0.58),
        "black": (0.09, 0.09, 0.10),
    },
    floors={
        "wooden": planks((0.73, 0.65, 0.57), (0.93, 0.87, 0.79)),
        "checkered": checks((0.66, 0.75, 0.86), (0.90, 0.92, 0.93)),
        "pink": tufts((0.89, 0.68, 0.73), (0.92, 0.83, 0.85)),
        "marble": veins((0.66, 0.68, 0.68), (0.91, 0.91, 0.89)),
    },
    walls={
        "cream": (0.95, 0.91, 0.84),
        "ice": (0.86, 0.91, 0.96),
        "rose": (0.96, 0.87, 0.87),
        "mint": (0.86, 0.94, 0.88),
    },
    wallpaper=striped,
    ambient=0.70,  # more than in the former: light floors throw light back
    direct=0.38,
    relations=("to the left of", "to the right of", "in front of", "behind"),
)
"""The world that the bundled prior knows: light floors and walls, nothing white, captions that say where things are."""

WORLDS = {world.name: world for world in (FORMER, LIGHT)}


def save_world(prior: Path, world: World, size: int) -> None:
    """Write into a prior's folder which world it knows, and of what size in pixels its pictures are."""
    prior.mkdir(parents=True, exist_ok=True)
    (prior / "world.json").write_text(
        json.dumps({"world": world.name, "size": size}) + "\n", encoding="utf-8"
    )


def world_of(prior: Path) -> tuple[World, int]:
    """The world that a prior's folder says it knows, and the size of its pictures; the former, at 64, if it does not.

    Raises UserError if the file is no such thing.
    """
    file = prior / "world.json"
    if not file.is_file():
        return FORMER, 64
    try:
        said = read_json(file)
        world, size = WORLDS[said["world"]], said["size"]
        if type(size) is not int or not 8 <= size <= 8192:
            raise ValueError(size)
        return world, size
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} does not name a world ({' or '.join(WORLDS)}) and a size") from error
