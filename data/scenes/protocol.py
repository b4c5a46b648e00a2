"""What a format of captured scenes offers, and the settings that all formats share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ids3d.config.bounds import check_bounds
from ids3d.data.scenes.framing import SpaceChoice
from ids3d.scene import Scene

Colour = tuple[float, float, float]
WHITE: Colour = (1.0, 1.0, 1.0)
BLACK: Colour = (0.0, 0.0, 0.0)


@dataclass
class SceneConfig:
    """The settings that all formats share, and keep when one is exchanged for another, or for `auto`.

    A format's own Config adds to them.
    """

    root: str = ""  # the scene's folder; empty = the sample scene that comes with ids3d
    max_size: int = 512  # longest side of the images, pixels; smaller ones stay as they are
    downsample: float | None = None  # instead of max_size: full size over this (LLFF's factor: 4 or 8)
    # Views 0, holdout, 2 holdout, ... by name are held out (Mildenhall et al. 2019: 8), unless the files say which.
    holdout: int = 8
    recentre: bool = True  # y up, the average camera (views from all around: the object) at the origin
    box_size: float = 2.0  # longest side of the scene's box, scene units; 0 = the files' units
    # What the field is laid out in: a box of the world, or the average camera's normalised device coordinates; auto:
    # these for views that all look the same way.
    space: SpaceChoice = "auto"
    # Depth before which no view shows anything, in the files' units; null: from the files, and where they don't say,
    # from what the cameras look at.
    near: float | None = None
    # Depth beyond which no view shows anything, in the files' units; null: as for near.
    far: float | None = None
    near_margin: float = 0.9  # factor of the files' nearest depths, which are of sparse points (NeRF: 0.9)
    far_margin: float = 1.05  # factor of the files' farthest depths
    # rgb behind the box and behind transparency, or white or black. null: black (of a Blender scene: white); but not
    # known, and left to the renderer to learn, where opaque images from all around, or of all around, show a room that
    # the box does not hold.
    background: Colour | Literal["white", "black"] | None = None
    # In training, behind all: another colour for each ray of each step, so that what the images show as opaque becomes
    # so, and what is dark is not taken for nothing. null: where no background is given, but not for rooms all around.
    random_background: bool | None = None
    # Whether edited/ and masks/ hold held-out views' true edit; null: where captions.json is of a tabletop scene.
    truth: bool | None = None

    def __post_init__(self) -> None:
        check_bounds(
            self,
            max_size="[1, 16384]",
            downsample="[1, 1000]",
            holdout="[2, 1e6]",  # less would leave no view to train on
            near="(0, 1e9)",
            far="(0, 1e9)",
            near_margin="(0, 1]",
            far_margin="[1, 1000]",
            box_size="[0, 1000]",
        )
        if not isinstance(self.background, str):
            check_bounds(self, background="[0, 1]")
        if 0 < self.box_size < 1e-3:
            raise ValueError(f"box_size={self.box_size}: expected 0, or 0.001 or more")
        if self.near is not None and self.far is not None and self.near >= self.far:
            raise ValueError(f"near={self.near} is not below far={self.far}")

    @property
    def colour(self) -> Colour | None:
        """The background as rgb; None: none is given."""
        if isinstance(self.background, str):
            return {"white": WHITE, "black": BLACK}[self.background]
        return self.background


class SceneFormat(Protocol):
    """A reader of scenes in one layout on the disk."""

    def __init__(self, cfg: Any) -> None: ...

    def load(self) -> Scene:
        """Read the scene and say in one line what was found. Raises UserError for what is wrong with the files."""
        ...
