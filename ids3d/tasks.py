"""The tasks of image editing: an image, prompts, and what is known of the true edit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SourceImage:
    """An image to edit, as it was read.

    Attributes:
        rgb: (h, w, 3) in [0, 1].
        notes: what reading it took (cropped, resized, ...), a few words each.
        truth: (h, w, 3) in [0, 1], the true edit, where it is known.
        mask: (h, w) bool, what the true edit touches.
    """

    rgb: Tensor
    notes: tuple[str, ...] = ()
    truth: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class EditTask:
    """An image to edit, read when its turn comes.

    Attributes:
        name: what the result is called.
        source, target: the prompts; None: not given.
        read: reads the image; raises UserError.
        world: "tabletop" for images of that world.
    """

    name: str
    source: str | None
    target: str | None
    read: Callable[[], SourceImage]
    world: str = ""
