"""A field as a film along a path of cameras, before and after the edit side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ids3d.camera_path import MOST_FRAMES, read_camera_path
from ids3d.cameras import Cameras
from ids3d.config.bounds import check_bounds
from ids3d.errors import UserError
from ids3d.images import require_ffmpeg
from ids3d.reading import given_path
from ids3d.scene import CameraLayout, Scene
from ids3d.systems.export.fields import ExportSettings, RunFields
from ids3d.systems.film import path_near_cameras, write_film

LAYOUTS: dict[str, CameraLayout] = {"spiral": "forward-facing", "orbit": "all around"}


@dataclass(frozen=True)
class Track:
    """The cameras of a film, and its frames a second."""

    cameras: Cameras
    fps: int


@dataclass(frozen=True)
class Video(ExportSettings):
    """video.mp4: source and edit side by side, or with `field` one of them."""

    # What is shown; null: both that there are.
    field: Literal["both", "edited", "source"] | None = None  # type: ignore[assignment]
    # The cameras' way. spiral: an ellipse near the training cameras; orbit: a circle about what they look at; or a file
    # that the viewer has saved. null: what suits the cameras.
    path: str | None = None
    size: int | None = None  # longest side of each picture, pixels; null: the photographs'
    frames: int | None = None  # how many frames; null: 120, or as many as the file's path has
    fps: int | None = None  # frames a second; null: 24, or the file's

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, size="[16, 8192]", frames=f"[2, {MOST_FRAMES}]", fps="[1, 240]")

    def write(self, fields: RunFields, folder: Path) -> str:
        """Write the film into `folder`. Returns what came out, in one line. Raises UserError: the path's file."""
        require_ffmpeg()
        film = self.track(fields.scene)
        shown = [fields.source] if fields.edited is None else [fields.source, fields.edited]
        if self.field == "edited":
            shown = shown[-1:]
        cameras = film.cameras.to(fields.device)
        write_film(folder / "video.mp4", cameras, shown, film.fps, fields.check)
        width = len(shown) * cameras.width
        return f"{len(cameras)} frames of {width}x{cameras.height} pixels, {film.fps} a second"

    def track(self, scene: Scene) -> Track:
        """Where the film's cameras are. Raises UserError: the path's file."""
        cameras = scene.train.cameras
        size = self.size or max(cameras.height, cameras.width)
        scale = size / max(cameras.height, cameras.width)
        # The codec wants even sides.
        height, width = (max(2, 2 * round(side * scale / 2)) for side in (cameras.height, cameras.width))
        if self.path is None or self.path in LAYOUTS:
            layout = scene.layout if self.path is None else LAYOUTS[self.path]
            path = path_near_cameras(scene, layout, self.frames or 120)
            return Track(path.resized(height, width), self.fps or 24)
        saved = read_camera_path(given_path(self.path, "path"))
        fps = self.fps or saved.fps
        frames = self.frames or saved.frames
        try:
            saved = replace(saved, fps=fps, seconds=(frames - 1) / fps if self.frames else saved.seconds)
        except ValueError as error:
            raise UserError(f"path {self.path}: {error}") from error
        return Track(saved.cameras(height, width), fps)
