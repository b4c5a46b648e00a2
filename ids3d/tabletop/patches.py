"""What each patch of a tabletop picture shows: labels that teach a network where things are and what they are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ids3d.tabletop.render import FIRST_OBJECT, FLOOR
from ids3d.tabletop.scene import SHAPES, Object, TabletopScene
from ids3d.tabletop.world import LIGHT, World

WALL_CLASS = len(LIGHT.floors)  # there are as many in each world


def classes(world: World) -> int:
    """How many there are: each floor, the wall, and each shape in each colour."""
    return len(world.floors) + 1 + len(SHAPES) * len(world.colours)


def class_of(thing: Object, scene: TabletopScene) -> int:
    """Which class an object of a scene is."""
    colours = list(scene.world.colours)
    return WALL_CLASS + 1 + SHAPES.index(thing.shape) * len(colours) + colours.index(thing.colour)


def patch_labels(ids: Tensor, scene: TabletopScene, patch: int) -> Tensor:
    """What each patch shows: an object that fills a quarter of it, else floor or wall.

    Args:
        ids: (h, w), `TabletopRender.ids`.
        scene: what the ids are of.
        patch: the patches' side in pixels; h and w are multiples of it.

    Returns:
        (h / patch · w / patch,) classes, row by row: the floor's index, WALL_CLASS, or after it the object's shape and
        colour, shape first.
    """
    patches = ids.long().unfold(0, patch, patch).unfold(1, patch, patch).flatten(2).flatten(0, 1)
    counts = functional.one_hot(patches, FIRST_OBJECT + 3).sum(1)
    floors = list(scene.world.floors)
    named = [class_of(thing, scene) for thing in scene.objects]
    lookup = torch.tensor([floors.index(scene.floor), WALL_CLASS, *named, *[0] * (3 - len(named))])
    objects, most = counts[:, FIRST_OBJECT:].max(1)
    ground = torch.where(counts[:, FLOOR] * 2 >= patch * patch, FLOOR, 1)
    return lookup[torch.where(objects * 4 >= patch * patch, most + FIRST_OBJECT, ground)]
