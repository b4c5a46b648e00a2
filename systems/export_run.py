"""Take a run away in another form: read its folder, and write RUN/exports/<kind>/."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ids3d.config import parse, read_overrides
from ids3d.errors import UserError, nearest
from ids3d.experiment import SceneJob
from ids3d.files import locked, replaced_whole
from ids3d.systems.export.fields import RunFields
from ids3d.systems.export.mesh import Mesh
from ids3d.systems.export.nerfstudio import Nerfstudio
from ids3d.systems.export.points import Points
from ids3d.systems.export.video import Video
from ids3d.systems.saved_run import load_job, read_reconstruction, read_run
from ids3d.systems.scene_edit_phases import SceneEditRun
from ids3d.systems.scene_phases import SceneRun
from ids3d.systems.stopping import GracefulStop

log = logging.getLogger(__name__)

Export = Mesh | Points | Video | Nerfstudio
KINDS: dict[str, type[Export]] = {"mesh": Mesh, "points": Points, "video": Video, "nerfstudio": Nerfstudio}


def settings_of(kind: str, overrides: Sequence[str]) -> Export:
    """The settings of an export from `key=value` words. Raises UserError: there is no such kind or setting."""
    if kind not in KINDS:
        raise UserError(f"unknown export {kind}: {nearest(kind, KINDS) or 'known are ' + ', '.join(KINDS)}")
    return parse(KINDS[kind], read_overrides(overrides, {}))


def export(folder: Path, kind: str, overrides: Sequence[str], trust_code: bool = False) -> Path:
    """Export the run in `folder`. Returns the folder with what came out; a former one is replaced once that is whole.

    Raises:
        UserError: the settings, what the folder holds, or that it cannot be written in.
        Interrupted: Ctrl-C or SIGTERM; nothing has changed.
    """
    settings, place = settings_of(kind, overrides), folder / "exports" / kind
    job = load_job(folder, trust_code)
    if settings.device is not None:
        job = replace(job, device=settings.device)
    with GracefulStop() as stop:
        fields = read_fields(job, settings, stop)
        with locked(folder, "or export it when it is finished"), replaced_whole(place) as new:
            log.info("%s: %s", place, settings.write(fields, new))
    return place


def read_fields(job: SceneJob, settings: Export, stop: GracefulStop) -> RunFields:
    """The fields that an export needs. Raises UserError: they are not there."""

    def check() -> None:
        stop.check("stopped: nothing was exported")

    if job.stage == "reconstruct" or settings.field == "source":
        if settings.field in ("edited", "both"):
            raise UserError(f"field={settings.field}: {job.folder} stopped before the edit: use field=source")
        run = SceneRun(job, stop)
        return RunFields(run.scene, read_reconstruction(run).renderer, None, run.device, check)
    saved_run = SceneEditRun(job, stop)
    saved = read_run(saved_run)
    return RunFields(saved.scene, saved.source, saved.edited.renderer, saved_run.device, check)
