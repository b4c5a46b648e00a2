"""The viewer: a page in the browser that shows a scene, before and after its edit, and the run that edits it."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import viser

from ids3d.errors import UserError
from ids3d.scene import Scene
from ids3d.systems.viewer.display import Fields, Viewpoint
from ids3d.systems.viewer.looking import start_of, upright
from ids3d.systems.viewer.painter import Onlooker, Painter
from ids3d.systems.viewer.panel import Panel, RunPanel
from ids3d.systems.viewer.same_origin import LOOPBACK, SameOriginServer, open_server
from ids3d.systems.viewer.stage import Stage

log = logging.getLogger(__name__)

IDLE = 0.03  # seconds between two looks at whether there is something to draw
TELL = 0.4  # seconds between two looks at the run's status


@dataclass(frozen=True)
class Address:
    """Where the viewer listens. A port that is taken is passed over for the next one."""

    host: str = LOOPBACK
    port: int = 8080


class Viewer:
    """Serves the page, and draws for all who have opened it, on a thread of its own.

        with Viewer(Address(), scene, folder, stage) as viewer:
            print(viewer.url)

    Args:
        address: where to listen.
        scene: whose views are shown as frustums.
        folder: of the run: camera paths and their films are kept there.
        stage: what is shown.

    Raises UserError: nothing can listen at that address.
    """

    def __init__(self, address: Address, scene: Scene, folder: Path, stage: Stage) -> None:
        self.scene, self.folder, self.stage = scene, folder, stage
        self.painter = Painter(stage.device)
        self.server = _open(address, f"ids3d · {folder.name}")
        self.panels: dict[int, Panel] = {}
        self._requests: list[Callable[[Fields], None]] = []
        self._closed = threading.Event()
        self._first_look = Viewpoint(scene.train.cameras.c2w[0], math.degrees(start_of(scene).fov), 1, 1)
        self._set_scene()
        self.run_panel = RunPanel(self.server, stage)
        self.server.on_client_connect(self._join)
        self.server.on_client_disconnect(self._leave)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._draw, self._tell)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """What to open in a browser."""
        host = self.server.get_host()
        return f"http://{'localhost' if host in ('0.0.0.0', '::') else host}:{self.server.get_port()}"

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        """Stop drawing and serving."""
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout=5)
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()

    def ask(self, request: Callable[[Fields], None]) -> None:
        """Hand copies of what is shown to a function, on the thread that draws."""
        self._requests.append(request)

    def _set_scene(self) -> None:
        start, server = start_of(self.scene), self.server
        server.scene.set_up_direction(upright(self.scene).double().numpy())
        server.initial_camera.position = start.position
        server.initial_camera.look_at = start.look_at
        server.initial_camera.up = start.up
        server.initial_camera.fov = start.fov
        server.scene.world_axes.visible = False
        server.gui.configure_theme(
            control_width="medium", show_logo=False, show_share_button=False, brand_color=(36, 99, 160)
        )
        server.gui.main_panel.dock_right()

    def _join(self, client: viser.ClientHandle) -> None:
        self.panels[client.client_id] = Panel(client, self)
        if client.client_id not in self.server.get_clients():  # it has left meanwhile
            self.panels.pop(client.client_id, None)
        self.stage.onlookers = len(self.panels)

    def _leave(self, client: viser.ClientHandle) -> None:
        panel = self.panels.pop(client.client_id, None)
        if panel is not None:
            panel.is_closed = True
        self.stage.onlookers = len(self.panels)

    def _onlookers(self) -> list[Onlooker]:
        return [panel.onlooker for panel in list(self.panels.values())]

    def _draw(self) -> None:
        while not self._closed.is_set():
            try:
                if self.stage.take():
                    for onlooker in self._onlookers():
                        onlooker.drawn, onlooker.scene_changed = 0, True
                fields = self.stage.fields
                if fields is not None:
                    self.painter.get_ready(fields, self._first_look)
                if fields is not None and self._requests:
                    self._requests.pop(0)(copy.deepcopy(fields))
                if fields is None or not self.painter.paint(fields, self._onlookers(), self._wanted):
                    self._closed.wait(IDLE)
            except Exception as error:  # the run that is looked at goes on, whatever fails here
                log.warning("viewer: a picture could not be drawn: %s", error)
                self.stage.say(note=f"a picture could not be drawn: {error}")
                for onlooker in self._onlookers():
                    onlooker.finest = max(16, onlooker.finest // 2)
                self._closed.wait(2)

    def _wanted(self) -> bool:
        return not self._closed.is_set()

    def _tell(self) -> None:
        while not self._closed.wait(TELL):
            with contextlib.suppress(Exception):
                self.run_panel.update()


def _open(address: Address, label: str) -> SameOriginServer:
    try:
        with socket.socket() as probe:
            probe.bind((address.host, 0))
    except OSError as error:
        raise UserError(
            f"--host {address.host}: nothing can listen there ({error.strerror or error})"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):  # viser's own greeting; ours is logged
        return open_server(address.host, address.port, label)


def wait_for_interrupt() -> None:
    """Return at Ctrl-C or SIGTERM."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)
