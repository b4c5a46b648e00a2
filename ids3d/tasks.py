"""What the editing of pictures is given: pictures, prompts, and what is known of the true edit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SourceImage:
    """A picture as it is edited.

    Attributes:
        rgb: (h, w, 3) in [0, 1].
        notes: what had to be done to make it that, a few words each.
        truth: (h, w, 3) in [0, 1], the true edit, where it is known.
        mask: (h, w) bool, what the true edit touches.
    """

    rgb: Tensor
    notes: tuple[str, ...] = ()
    truth: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class EditTask:
    """A picture to edit: what to call the result, the prompts (None: not said), and how to read the picture.

    `read` raises UserError. `world` is "tabletop" for pictures of that world.
    """

    name: str
    source: str | None
    target: str | None
    read: Callable[[], SourceImage]
    world: str = ""
