"""What stands beside the picture: what is shown, the views, the run. Text is shown as text: nothing in it is markup."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import viser

from ids3d.errors import UserError
from ids3d.images import resize, to_bytes
from ids3d.systems.edit_scene.changes import REGION, SCALE, TARGET
from ids3d.systems.viewer.display import CHANNELS, LAYOUTS, Display
from ids3d.systems.viewer.looking import (
    first_view,
    fov_of,
    frustum_scale,
    orbit_distance,
    viewpoint_of,
    wxyz_of,
)
from ids3d.systems.viewer.painter import Onlooker
from ids3d.systems.viewer.path_panel import PathPanel
from ids3d.systems.viewer.stage import Stage, Status

if TYPE_CHECKING:
    from ids3d.systems.viewer.server import Viewer

HEIGHTS = ("240", "360", "480", "720", "1080")
PHOTOGRAPH = 96  # pixels of a photograph's longest side in its frustum
NO_VIEW = "–"
JPEG_QUALITY = 85
FIGURES = 8  # at most, of those that are logged
ORDER_SHOW, ORDER_VIEWS, ORDER_PATH, ORDER_RUN = 10.0, 20.0, 30.0, 0.0


def refusing(say: Callable[[str], None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate what answers a browser: what is wrong with its wish is said, and nothing else comes of it."""

    def decorate(answer: Callable[..., None]) -> Callable[..., None]:
        @wraps(answer)
        def answered(*args: Any) -> None:
            try:
                answer(*args)
            except (UserError, ValueError, TypeError, OverflowError) as error:
                say(str(error))

        return answered

    return decorate


class Panel:
    """One browser's part of the page: what it shows, from where. Closing it disturbs no other.

    Args:
        client: the browser.
        viewer: whose scene it shows.
    """

    def __init__(self, client: viser.ClientHandle, viewer: Viewer) -> None:
        self.client, self.viewer = client, viewer
        self.onlooker = Onlooker(self._show)
        self.is_closed = False
        self._add_show()
        self._add_views()
        self.path = PathPanel(self, ORDER_PATH)
        client.camera.on_update(lambda _: self._moved())
        client.camera.fov = fov_of(first_view(viewer.scene), 0, client.camera.aspect)
        self._moved()

    def say(self, text: str) -> None:
        """Tell this browser's user something."""
        self.client.add_notification("ids3d", text[:500], auto_close_seconds=8.0)

    def _show(self, picture: np.ndarray) -> None:
        if not self.is_closed:
            self.client.scene.set_background_image(picture, format="jpeg", jpeg_quality=JPEG_QUALITY)

    def _moved(self) -> None:
        viewpoint = viewpoint_of(self.client.camera)
        if viewpoint is not None:
            self.onlooker.look(viewpoint=viewpoint)

    def _add_show(self) -> None:
        gui = self.client.gui
        with gui.add_folder("Show", order=ORDER_SHOW):
            self.layout = gui.add_dropdown("Field", LAYOUTS, initial_value="edited")
            self.channel = gui.add_dropdown("Channel", CHANNELS, initial_value="rgb")
            self.wipe = gui.add_slider("Wipe", 0.0, 1.0, 0.01, 0.5, visible=False)
            self.height = gui.add_dropdown(
                "Rows at rest", HEIGHTS, initial_value="480", hint="of the picture, once the camera rests"
            )

        def changed(_: Any) -> None:
            display = Display(self.layout.value, self.channel.value, float(self.wipe.value))
            height = int(self.height.value)
            if str(height) not in HEIGHTS:
                raise ValueError(f"{height} rows")
            self.wipe.visible = display.layout == "wipe"
            self.onlooker.finest = height
            self.onlooker.look(display=display)
            self._show_frustums()

        for handle in (self.layout, self.channel, self.wipe, self.height):
            handle.on_update(refusing(self.say)(changed))

    def _add_views(self) -> None:
        gui, scene = self.client.gui, self.viewer.scene
        self.names = [*scene.train.names, *scene.test.names]
        with gui.add_folder("Views", order=ORDER_VIEWS):
            self.cameras = gui.add_checkbox(
                "Cameras", False, hint="the training views, with their photographs"
            )
            self.view = gui.add_dropdown("Jump to", [NO_VIEW, *self.names], initial_value=NO_VIEW)
        self.frustums: list[viser.CameraFrustumHandle] = []

        def jump(_: Any) -> None:
            if self.view.value in self.names:
                self.jump(self.names.index(self.view.value))

        self.cameras.on_update(lambda _: self._show_frustums())
        self.view.on_update(refusing(self.say)(jump))

    def jump(self, index: int) -> None:
        """Look from where a view was taken: the training views first, then those held out."""
        scene, camera = self.viewer.scene, self.client.camera
        views, i = (
            (scene.train, index) if index < len(scene.train) else (scene.test, index - len(scene.train))
        )
        c2w = views.cameras.c2w[i]
        with self.client.atomic():
            camera.up_direction = c2w[:, 1].double().numpy()
            camera.position = c2w[:, 3].double().numpy()
            camera.look_at = (c2w[:, 3] - orbit_distance(scene, c2w) * c2w[:, 2]).double().numpy()
            camera.fov = fov_of(views.cameras, i, camera.aspect)

    def _show_frustums(self) -> None:
        # Beside each other the fields have half a window each, which the frustums do not know.
        visible = bool(self.cameras.value) and self.onlooker.display.layout != "side by side"
        if visible and not self.frustums:
            self._add_frustums()
        for frustum in self.frustums:
            frustum.visible = visible

    def _add_frustums(self) -> None:
        train = self.viewer.scene.train
        cameras, scale = train.cameras, frustum_scale(self.viewer.scene)
        share = min(1.0, PHOTOGRAPH / max(cameras.height, cameras.width))
        size = (max(1, round(cameras.height * share)), max(1, round(cameras.width * share)))
        for i in range(len(train)):
            frustum = self.client.scene.add_camera_frustum(
                f"/views/{i}",
                fov_of(cameras, i),
                cameras.width / cameras.height,
                scale=scale,
                thickness=0.02 * scale,
                color=(36, 99, 160),
                image=to_bytes(resize(train.images[i], size)),
                format="jpeg",
                wxyz=wxyz_of(cameras.c2w[i]),
                position=cameras.c2w[i, :, 3].double().numpy(),
            )
            frustum.on_click(lambda _, index=i: self.jump(index))
            self.frustums.append(frustum)


class RunPanel:
    """The part of the page that all browsers share: how far the run is, pause, and what can be changed in it.

    Args:
        server: whose page it is.
        stage: of the run.
    """

    def __init__(self, server: viser.ViserServer, stage: Stage) -> None:
        self.stage, self._told = stage, Status(phase="")
        gui = server.gui
        with gui.add_folder("Run", order=ORDER_RUN):
            self.status = gui.add_html("")
            self.bar = gui.add_progress_bar(0.0, visible=False)
            self.pause = gui.add_button("Pause", visible=stage.is_live)
            self.target = gui.add_text("Target", "", visible=False, multiline=True)
            self.scale = gui.add_number("ω", 7.5, min=0.0, max=1e4, step=0.1, visible=False)
            self.region = gui.add_text(
                "Region", "", visible=False, hint="everywhere, difference, or a folder of masks"
            )
            self.change = gui.add_button(
                "Change from here on", visible=False, hint="written to changes.jsonl in the run's folder"
            )
        self.inputs = {TARGET: self.target, SCALE: self.scale, REGION: self.region}
        self.pause.on_click(lambda _: self._toggle())
        self.change.on_click(lambda _: self._wish())
        self.update()

    def _toggle(self) -> None:
        if self.stage.is_live:
            self.stage.pause(not self.stage.is_paused)
            self.update()

    def _wish(self) -> None:
        values = self.stage.status.values
        for key, handle in self.inputs.items():
            if key in values and handle.value != values[key]:
                self.stage.wish(key, handle.value)

    def update(self) -> None:
        """Show the run's status, if it is another than the one that is shown."""
        status, told = self.stage.status, self._told
        if status == told:
            return
        self._told = status
        self.status.content = describe(status)
        self.bar.visible = status.steps > 0
        self.bar.value = 100.0 * status.step / max(status.steps, 1)
        self.pause.label = "Go on" if status.paused else "Pause"
        self.pause.visible = self.stage.is_live and status.phase != "finished"
        if status.values != told.values or status.note != told.note:
            for key, handle in self.inputs.items():
                handle.visible = key in status.values
                if key in status.values:
                    handle.value = status.values[key]  # type: ignore[assignment]
            self.change.visible = bool(status.values)


def describe(status: Status) -> str:
    """A run's status as HTML, whatever its texts hold."""
    step = f"step {status.step} of {status.steps}" if status.steps else ""
    lines = [f"<b>{html.escape(status.phase)}</b>{' · paused' if status.paused else ''}", step]
    for name, value in sorted(status.figures.items())[:FIGURES]:
        label = html.escape(name.rsplit("/", 1)[-1].replace("_", " "))
        lines.append(f'<span style="opacity:.7">{label}</span><span style="float:right">{value:.4g}</span>')
    if status.note:
        lines.append(f'<i style="overflow-wrap:anywhere">{html.escape(status.note)}</i>')
    body = "".join(f"<div>{line}</div>" for line in lines if line)
    return f'<div style="font-size:.85em;line-height:1.5;padding:0 .8em">{body}</div>'
