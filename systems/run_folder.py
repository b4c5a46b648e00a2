"""The life of a run's folder: what a start may do with what is there, and how a finished run is replaced."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ids3d.errors import UserError
from ids3d.experiment import Job
from ids3d.files import cannot_write, locked
from ids3d.provenance import earlier_starts

log = logging.getLogger(__name__)

J = TypeVar("J", bound=Job)

REPLACEMENT = ".overwriting"
"""What is added to a run's tag while the run that is to replace it is not finished."""


def is_finished(folder: Path) -> bool:
    """Tell whether a run's folder holds its final figures, which are written last."""
    return (folder / "metrics.json").exists()


def is_begun(folder: Path) -> bool:
    """Tell whether a run has ever started in a folder."""
    return (folder / "config.yaml").exists() or is_finished(folder)


def replacement_folder(folder: Path) -> Path:
    """Return the folder of a run that is to replace that of `folder`."""
    return folder.with_name(folder.name + REPLACEMENT)


def replacement_of(job: J) -> J:
    """Return the job that is to replace a finished one: the same, in a folder beside that one's. Raises UserError."""
    return job.moved_to(replacement_folder(job.folder))


def replaced_by(job: J) -> J:
    """Return the job that one will replace; itself, if it is to replace none."""
    return replace(job, tag=job.tag.removesuffix(REPLACEMENT))


def settle(job: J, settings: str, overwrite: bool) -> J:
    """Return the job in the folder in which it is to run: its own, or one beside that until it can replace it.

    Args:
        settings: names all that determines the run's result.
        overwrite: replace what is there.

    Raises UserError: its folder holds a finished run, or one of other settings, and that is not to be replaced.
    """
    folder = job.folder
    if job.tag.endswith(REPLACEMENT):
        raise UserError(
            f"tag {job.tag}: {REPLACEMENT} is what a run is called that is to replace another: choose another tag"
        )
    if not is_begun(folder) or (not is_finished(folder) and _can_go_on(folder, settings)):
        return job
    if overwrite:
        replacement = replacement_of(job)
        if not _can_go_on(replacement.folder, settings):
            raise UserError(
                f"{replacement.folder}, an unfinished run that is to replace {folder}, has other settings: go on with "
                f"it with --resume {folder}, or delete it"
            )
        return replacement
    what = "a finished run" if is_finished(folder) else "an unfinished run with other settings"
    raise UserError(
        f"{folder} holds {what}: give this run another tag (tag=...), or replace that one with --overwrite"
    )


def _can_go_on(folder: Path, settings: str) -> bool:
    """Tell whether a run of these settings may go on in a folder; so may any where nothing is known of its own."""
    return earlier_starts(folder).settings in ("", settings)


def finish_replacing(folder: Path) -> None:
    """Put a run in the place of this one that was to replace it, and was finished but for that when it was killed."""
    replacement = replacement_folder(folder)
    if is_finished(replacement):
        with locked(replacement):
            publish(replacement)


def publish(folder: Path) -> None:
    """Put a finished run in the place of the one that it was to replace, which goes only now.

    Does nothing for a run that is to replace none. Raises UserError: another process is writing the other one.
    """
    final = folder.with_name(folder.name.removesuffix(REPLACEMENT))
    if final == folder:
        return
    old = final.with_name(f"{final.name}.replaced")
    try:
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            with locked(final):
                final.rename(old)
        folder.rename(final)
    except OSError as error:
        raise cannot_write(final, error) from error
    shutil.rmtree(old, ignore_errors=True)
    log.info("%s: the former run is replaced", final)
