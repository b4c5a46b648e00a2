"""Look at a run from its folder: one that is finished, or one that another process is at, by its checkpoints."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from ids3d.errors import UserError
from ids3d.models.renderers.protocol import Renderer
from ids3d.systems.fields import field_file, restore
from ids3d.systems.saved_run import load_job
from ids3d.systems.scene_edit_phases import SceneEditRun
from ids3d.systems.scene_phases import SceneRun
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import load_tensors
from ids3d.systems.viewer.server import Address, Viewer, wait_for_interrupt
from ids3d.systems.viewer.stage import Stage

log = logging.getLogger(__name__)

POLL = 2.0  # seconds between two looks at the folder
ADVICE = "wait for the next one"
FIELD = "renderer."  # how the field's tensors are called in a checkpoint of a training


class Following:
    """Shows on a stage what a run's folder holds, and what has come to it since.

    Args:
        run: whose folder; nothing is written there.
        stage: where it is shown.
    """

    def __init__(self, run: SceneRun, stage: Stage) -> None:
        self.run, self.stage = run, stage
        self._seen: dict[Path, tuple[int, int]] = {}
        self._source: Renderer | None = None

    def look(self) -> bool:
        """Show what is new. Returns whether the run can still change. Raises UserError: what is there is damaged."""
        run = self.run
        if self._source is None:
            reconstruction = run.load_reconstruction()
            if reconstruction is None:
                self._show(run.reconstructing.path, "reconstructing", run.build_renderer, None)
                return True
            self._source = reconstruction.renderer
            self.stage.open(self._source, None)
            self.stage.say(phase="reconstructed", step=0, steps=0)
        if not isinstance(run, SceneEditRun):
            self.stage.say(phase="finished")
            return False
        last = field_file(run.checkpoints / "last.safetensors")
        if self._is_new(last):
            state = run.read_edited()
            edited = run.restore_edited(self._source, state)
            self.stage.open(self._source, edited.renderer)
            self.stage.say(phase="finished", step=edited.steps, steps=edited.steps)
            return False
        source = self._source
        self._show(run.editing.path, "editing", lambda: restored_copy(run, source), source)
        return not last.exists()

    def _is_new(self, path: Path) -> bool:
        """Tell whether a file is another than when this was last asked."""
        try:
            stat = path.stat()
        except OSError:
            return False
        mark = (stat.st_mtime_ns, stat.st_size)
        known, self._seen[path] = self._seen.get(path), mark
        return mark != known

    def _show(self, path: Path, phase: str, make: Callable[[], Renderer], source: Renderer | None) -> None:
        """Show the field in a checkpoint of a training, if that is new."""
        if not self._is_new(path):
            return
        checkpoint = load_tensors(path, ("state_dict", "global_step"), ADVICE, self.run.device)
        state = {k.removeprefix(FIELD): v for k, v in checkpoint["state_dict"].items() if k.startswith(FIELD)}
        renderer = make()
        restore(renderer, state, path, ADVICE)
        self.stage.open(source or renderer, None if source is None else renderer)
        self.stage.say(phase=f"{phase}, as of its last checkpoint", step=int(checkpoint["global_step"]))

    def follow(self, is_over: threading.Event) -> None:
        """Look again and again, until the run is finished or this is over."""
        while not is_over.wait(POLL):
            try:
                if not self.look():
                    return
            except UserError as error:  # a checkpoint that was replaced while it was read
                self.stage.say(note=str(error))


def restored_copy(run: SceneEditRun, source: Renderer) -> Renderer:
    """A field of its own for an edit's checkpoint."""
    renderer = run.build_renderer()
    renderer.load_state_dict(source.state_dict())
    return renderer


def view_run(folder: Path, address: Address, trust_code: bool = False) -> None:
    """Show the run of a folder in the browser, until Ctrl-C.

    Raises UserError: it is no run over a scene, what it holds is damaged, or nothing can listen at the address.
    """
    job = load_job(folder, trust_code)
    with GracefulStop() as stop:
        run = (SceneRun if job.stage == "reconstruct" else SceneEditRun)(job, stop)
    stage, is_over = Stage(run.device, is_live=False), threading.Event()
    following = Following(run, stage)
    changes = following.look()
    with Viewer(address, run.scene, folder, stage) as viewer:
        log.info("viewer: %s (Ctrl-C ends it)", viewer.url)
        if changes:
            threading.Thread(target=following.follow, args=(is_over,), daemon=True).start()
        wait_for_interrupt()
        is_over.set()


class Live:
    """A viewer of a run in this process: `open` is what `scene_run.run` takes as its `view`."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.viewer: Viewer | None = None

    def open(self, run: SceneRun) -> Stage:
        """Open the viewer for a run that is about to begin."""
        stage = Stage(torch.device(run.device), is_live=True)
        self.viewer = Viewer(self.address, run.scene, run.folder, stage)
        log.info("viewer: %s", self.viewer.url)
        return stage

    def stay(self) -> None:
        """Go on showing what has come out, until Ctrl-C."""
        if self.viewer is not None:
            self.viewer.stage.say(phase="finished", values={})
            log.info("viewer: still at %s (Ctrl-C ends it)", self.viewer.url)
            wait_for_interrupt()

    def close(self) -> None:
        if self.viewer is not None:
            self.viewer.close()
