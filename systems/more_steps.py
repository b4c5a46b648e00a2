"""More steps of a finished edit: a copy of its run is gone on with, and takes its place when that is finished too."""

from __future__ import annotations

import logging
import shutil

from ids3d.errors import UserError
from ids3d.experiment import SceneJob, load_saved
from ids3d.files import atomic_write, locked
from ids3d.provenance import earlier_starts, record
from ids3d.systems.edit_scene.protocol import EditConfig
from ids3d.systems.resuming import END, continue_finished
from ids3d.systems.run_folder import replacement_folder
from ids3d.systems.scene_edit_phases import INTERRUPTED, SceneEditRun
from ids3d.systems.scene_phases import SceneRun

log = logging.getLogger(__name__)

OF_THE_END = (
    "metrics.json",
    "last.safetensors",
    END,
    "renders",
    "video.mp4",
    "report*",
    "exports",
    ".lock",
)
"""What a run leaves when it is finished, and what was made of it: nothing to go on from."""


def begin_more(run: SceneRun) -> None:
    """Copy a finished run to where the one is made that will replace it, as one that was stopped after its last step.

    Args:
        run: of the finished one's folder, and of more steps.

    Raises UserError: it is of other settings, or nothing was kept that could be gone on from.
    """
    folder = run.job.folder
    if not isinstance(run, SceneEditRun) or not _is_more(run):
        raise UserError(
            f"{folder} is finished, and only more steps of the same edit go on from it (edit.steps; through pictures, "
            "more edit.rounds with as many steps in each): give it a tag of its own: "
            f"--config {folder / 'config.yaml'} tag=... (the same reconstruction is used again)"
        )
    end = run.checkpoints / END
    if not end.exists():
        raise UserError(
            f"there is no {end}, which more steps would go on from: give this run another tag (tag=...), or do it anew "
            "with --overwrite"
        )
    with locked(folder), atomic_write(replacement_folder(folder)) as copy:
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(*OF_THE_END))
        continue_finished(end, copy / end.parent.name / INTERRUPTED, run.key)
        record(run.job, run.key, copy)
    log.info("%s: going on from its last step; it stays as it is until more are done", folder)


def _is_more(run: SceneEditRun) -> bool:
    """Whether a run says what the finished one in its folder did, but for more steps."""
    earlier = load_saved(run.job.folder, trust_code=run.job.names_code)
    if not isinstance(earlier, SceneJob) or run.job.guidance.kind == "sampler":  # which edits once
        return False
    now, then = run.job.edit.settings(), earlier.edit.settings()
    return (
        isinstance(now, EditConfig)
        and now.is_more_than(then)
        and run.edit_key(earlier.edit) == earlier_starts(run.job.folder).settings
    )
