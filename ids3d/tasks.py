"""The tasks of image editing: an image, prompts, and what is known of the true edit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ids3d.errors import UserError

LONGEST_NAME = 200  # bytes; file systems take 255, and suffixes are added
# What a run writes into its folder, where each image has a folder of its own.
RUN_FILES = {
    *(
        "config.yaml",
        "metrics.csv",
        "metrics.json",
        "provenance.json",
        "report.html",
        "results.csv",
        "video.mp4",
    ),
    *("checkpoints", "renders", "tensorboard", "wandb"),
}


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
        name: what the folder of its results is called.
        source, target: the prompts; None: not given.
        read: reads the image; raises UserError.
        world: "tabletop" for images of that world.

    Raises UserError for a name that cannot be a folder's, or is that of a file of the run itself.
    """

    name: str
    source: str | None
    target: str | None
    read: Callable[[], SourceImage]
    world: str = ""

    def __post_init__(self) -> None:
        name = self.name
        fault = ""
        if not name or name.startswith(".") or "/" in name or "\\" in name or not name.isprintable():
            fault = "no folder can be called so"
        elif len(name.encode()) > LONGEST_NAME:
            fault = f"longer than {LONGEST_NAME} bytes"
        elif name in RUN_FILES:
            fault = "the run writes a file of that name"
        if fault:
            raise UserError(
                f"the image {name[:60]!r}: {fault}, so its results have no place: rename the image"
            )
