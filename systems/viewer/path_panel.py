"""A camera path made in the browser: keyframes, saved in the run's folder, and a film along it."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import viser
from torch import Tensor

from ids3d.camera_path import CameraPath, Keyframe, read_camera_path
from ids3d.cameras import Cameras
from ids3d.errors import UserError
from ids3d.images import require_ffmpeg, save_video
from ids3d.models.renderers.protocol import Renderer
from ids3d.systems.viewer.display import Display, Fields, Viewpoint, draw
from ids3d.systems.viewer.looking import frustum_scale, wxyz_of

if TYPE_CHECKING:
    from ids3d.systems.viewer.panel import Panel

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
COLOUR = (230, 120, 20)


class PathPanel:
    """The part of a browser's page that makes a camera path.

    Args:
        panel: the browser's.
        order: where it stands on the page.
    """

    def __init__(self, panel: Panel, order: float) -> None:
        from ids3d.systems.viewer.panel import refusing

        self.panel, self.viewer = panel, panel.viewer
        self.keyframes: list[Keyframe] = []
        self._shown: list[viser.CameraFrustumHandle] = []
        gui = panel.client.gui
        with gui.add_folder("Camera path", order=order, expand_by_default=False):
            self.told = gui.add_html("")
            add = gui.add_button("Add keyframe", hint="what is seen now")
            remove = gui.add_button("Remove last")
            self.name = gui.add_text("Name", "path")
            self.seconds = gui.add_number("Seconds", 4.0, min=0.1, max=600.0, step=0.5)
            save = gui.add_button("Save", hint="as camera_paths/<name>.json in the run's folder")
            load = gui.add_button("Load", hint="the one of that name")
            film = gui.add_button("Save and film", hint="as camera_paths/<name>.mp4, of what is shown now")
        buttons = (add, remove, save, load, film)
        answers = (self._add, self._remove, self._save, self._load, self._film)
        for button, answer in zip(buttons, answers, strict=True):
            button.on_click(refusing(panel.say)(answer))
        self._tell()

    @property
    def folder(self) -> Path:
        """Where paths are kept."""
        return self.viewer.folder / "camera_paths"

    def _file(self, suffix: str) -> Path:
        """Raises ValueError for a name that could be another place."""
        if not NAME.fullmatch(self.name.value):
            raise ValueError("a path's name has letters, digits, - and _, 64 at most")
        return self.folder / f"{self.name.value}{suffix}"

    def _path(self) -> CameraPath:
        return CameraPath(tuple(self.keyframes), float(self.seconds.value))

    def _add(self, _: Any) -> None:
        viewpoint = self.panel.onlooker.viewpoint
        if viewpoint is not None:
            self.keyframes.append(Keyframe(viewpoint.c2w, viewpoint.fov_y))
            self._tell()

    def _remove(self, _: Any) -> None:
        if self.keyframes:
            self.keyframes.pop()
            self._tell()

    def _save(self, _: Any) -> None:
        file = self._file(".json")
        self._path().save(file)
        self._tell(f"saved to {file.name}")

    def _load(self, _: Any) -> None:
        path = read_camera_path(self._file(".json"))
        self.keyframes, self.seconds.value = [*path.keyframes], path.seconds
        self._tell(f"read from {self.name.value}.json")

    def _film(self, _: Any) -> None:
        path, file, onlooker = self._path(), self._file(".mp4"), self.panel.onlooker
        require_ffmpeg()
        self._save(None)
        viewpoint, display, height = onlooker.viewpoint, onlooker.display, onlooker.finest
        if viewpoint is None:
            return
        self._tell("filming")
        self.viewer.ask(lambda fields: self._start_filming(path, file, display, viewpoint, height, fields))

    def _start_filming(
        self,
        path: CameraPath,
        file: Path,
        display: Display,
        viewpoint: Viewpoint,
        height: int,
        fields: Fields,
    ) -> None:
        cameras = path.cameras(height, viewpoint.camera(height).width).to(self.viewer.stage.device)

        def frames() -> Iterator[Tensor]:
            for i, frame in enumerate(film(display, fields, cameras)):
                if self.viewer.is_closed:
                    raise UserError("the viewer was closed")
                self._tell(f"filming: frame {i + 1} of {len(cameras)}")
                yield frame

        def work() -> None:
            try:
                save_video(file, frames(), path.fps)
                self._tell(f"filmed to {file.name}")
            except (UserError, RuntimeError) as error:  # torch's own, of memory, are RuntimeErrors
                self._tell(f"not filmed: {error}")

        threading.Thread(target=work, daemon=True).start()

    def _tell(self, news: str = "") -> None:
        """Show the path, and what became of the last wish."""
        self._show_keyframes()
        count = len(self.keyframes)
        text = f"{count} keyframe{'' if count == 1 else 's'}{' · ' if news else ''}{news}"
        self.told.content = f'<div style="font-size:.85em;padding:0 .8em">{html.escape(text)}</div>'

    def _show_keyframes(self) -> None:
        scale = 0.6 * frustum_scale(self.viewer.scene)
        while len(self._shown) > len(self.keyframes):
            self._shown.pop().remove()
        for i, keyframe in enumerate(self.keyframes):
            wxyz, position = wxyz_of(keyframe.c2w), keyframe.c2w[:, 3].double().numpy()
            if i < len(self._shown):
                self._shown[i].wxyz, self._shown[i].position = wxyz, position
                continue
            fov = float(torch.deg2rad(torch.tensor(keyframe.fov_y)))
            self._shown.append(
                self.panel.client.scene.add_camera_frustum(
                    f"/keyframes/{i}",
                    fov,
                    1.5,
                    scale=scale,
                    thickness=0.03 * scale,
                    color=COLOUR,
                    wxyz=wxyz,
                    position=position,
                )
            )


def film(display: Display, fields: Fields, cameras: Cameras) -> Iterator[Tensor]:
    """Yield the pictures (h, w, 3) of each camera in turn."""

    def render(renderer: Renderer, camera: Cameras) -> Any:
        return renderer.render(camera)

    for i in range(len(cameras)):
        yield draw(display, fields, cameras[i], render)
