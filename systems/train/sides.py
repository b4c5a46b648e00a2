"""Where things are, for a CLIP to learn: captions that differ in a side, and how far to the right things are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ids3d.tabletop.captions import OPPOSITE, SIDES, TEMPLATES, place
from ids3d.tabletop.patches import class_of
from ids3d.tabletop.scene import PortableRandom, TabletopScene


@dataclass(frozen=True)
class Sided:
    """A caption that says rightly which of two objects is on which side of a picture, and the same said wrongly.

    Attributes:
        index: the picture's, among those that it was drawn for.
        right, wrong: the captions.
        left_and_right: the classes of the two objects.
    """

    index: int
    right: str
    wrong: str
    left_and_right: tuple[int, int]

    @staticmethod
    def draw(index: int, scene: TabletopScene, relation: str, rng: PortableRandom) -> Sided:
        """Put it in words, from either object."""
        template = rng.choice(TEMPLATES)
        if rng.uniform(0, 1) < 0.5:
            scene, relation = replace(scene, objects=scene.objects[::-1]), OPPOSITE[relation]
        a, b = (class_of(thing, scene) for thing in scene.objects)
        wrong = place(scene, OPPOSITE[relation], template)
        return Sided(
            index, place(scene, relation, template), wrong, (a, b) if relation == SIDES[0] else (b, a)
        )


def columns(labels: Tensor, classes: int) -> Tensor:
    """How far to the right each class is, (n, classes) in [-1, 1]: its patches' mean column; 0 where there is none.

    labels (n, patches) are those of a square of patches, row by row.
    """
    side = math.isqrt(labels.shape[1])
    column = torch.linspace(-1, 1, side, device=labels.device).repeat(side)
    of = functional.one_hot(labels, classes).float()
    return torch.einsum("npc,p->nc", of, column) / of.sum(1).clamp(min=1)
