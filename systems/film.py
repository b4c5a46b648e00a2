"""Films of a scene: cameras on a path near those that took it, and several fields side by side along it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ids3d.cameras import Cameras
from ids3d.images import film_path, save_video
from ids3d.models.renderers.protocol import Renderer
from ids3d.progress import track
from ids3d.scene import CameraLayout, Scene


def path_near_cameras(scene: Scene, layout: CameraLayout, frames: int) -> Cameras:
    """The path of `film_path` for this layout; forward-facing: it looks at the middle of the depths' reciprocals."""
    bounds = scene.bounds
    distance = 2 / (1 / max(bounds.near, 1e-3 * bounds.far) + 1 / bounds.far)
    return film_path(scene.train.cameras, layout, frames, distance)


def write_film(
    video: Path, path: Cameras, renderers: Sequence[Renderer], fps: int, check: Callable[[], None]
) -> None:
    """Write an MP4 of what the fields show side by side along a path, whole or not at all.

    Args:
        path: its frames, on the renderers' device.
        check: called between two frames; may raise to stop.
    """

    def frames() -> Iterator[Tensor]:
        for i in track(range(len(path)), "film", unit="frame"):
            check()
            yield torch.cat([renderer.render(path[i]).rgb for renderer in renderers], dim=1)

    save_video(video, frames(), fps)
