"""One run over a scene, from start to end: what is there already is gone on with, and what is finished is kept."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator

from ids3d.cli import launch_command
from ids3d.device import pick_device
from ids3d.errors import UserError
from ids3d.experiment import SceneJob, load_saved
from ids3d.files import locked
from ids3d.provenance import earlier_starts, note_seconds, record
from ids3d.systems.evaluate.held_out import show_reconstruction
from ids3d.systems.fitting import quieten_lightning
from ids3d.systems.more_steps import begin_more
from ids3d.systems.overview import show_scene_run
from ids3d.systems.ranks import lost_rank_is_one_line, start_ranks
from ids3d.systems.report import report_scene
from ids3d.systems.run_folder import (
    finish_replacing,
    is_begun,
    is_finished,
    publish,
    replaced_by,
    replacement_folder,
    settle,
)
from ids3d.systems.scene_edit_phases import SceneEditRun
from ids3d.systems.scene_phases import SceneRun
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import Figures, memory_figures, read_figures, write_json
from ids3d.systems.viewer.stage import Stage

log = logging.getLogger(__name__)


def run(
    job: SceneJob,
    *,
    resume: bool = False,
    overwrite: bool = False,
    view: Callable[[SceneRun], Stage] | None = None,
) -> Figures:
    """Reconstruct, edit and evaluate as `job` says. Leaves everything in `job.folder`.

    A folder with an unfinished run of the same settings is gone on with. A finished one is never touched.

    Args:
        resume: go on with what is there; of a finished run, return the figures, or where the job has more steps, make
            those in a copy that takes its place.
        overwrite: do a finished run anew; when it is finished again, the new one takes its place.
        view: opens a viewer for a run that is about to begin, and says where that is to be shown.

    Returns:
        The figures of metrics.json.

    Raises:
        UserError: something is wrong that the user can put right; found before any training, and nothing is written.
        Interrupted: Ctrl-C or SIGTERM; the message says how to go on.
    """
    quieten_lightning()
    job.check()
    with GracefulStop() as stop, lost_rank_is_one_line():
        ranks = start_ranks(pick_device(job.device), job.devices, job.nodes)
        job = ranks.first(lambda: job)  # with the tag that the first one has chosen
        ranks.first(lambda: finish_replacing(job.folder))
        replacing = overwrite or (resume and ranks.first(lambda: is_begun(replacement_folder(job.folder))))
        finished = resume and not replacing and ranks.first(lambda: is_finished(job.folder))
        if finished and ranks.first(lambda: _is_the_same(job)):
            ranks.dismiss()
            return _say_finished(job)
        kind = SceneRun if job.stage == "reconstruct" else SceneEditRun
        work = ranks.each(lambda: kind(job, stop, ranks))
        if finished:
            if ranks.first(lambda: earlier_starts(job.folder).settings == work.key):
                ranks.dismiss()
                return _say_finished(job)
            ranks.first(lambda: begin_more(work))
            replacing = True
        work.job = ranks.first(lambda: settle(job, work.key, replacing))
        ranks.each(work.prepare)
        work.stage = view(work) if view is not None and ranks.is_first else None
        with contextlib.ExitStack() as stack:
            ranks.first(lambda: stack.enter_context(_begun(work)))
            # In all processes, of which the others are told less.
            ranks.first(lambda: show_scene_run(work) if log.isEnabledFor(logging.INFO) else None)
            if isinstance(work, SceneEditRun):
                return reconstruct_and_edit(work)
            return reconstruct_only(work)


def _is_the_same(job: SceneJob) -> bool:
    """Whether a finished run has a job's settings."""
    return load_saved(job.folder, trust_code=job.names_code).to_mapping() == job.to_mapping()


def _say_finished(job: SceneJob) -> Figures:
    log.info("%s is finished, and stays as it is (--test evaluates it again)", job.folder)
    return read_figures(job.folder / "metrics.json", f"{launch_command()} --test {job.folder} writes it anew")


@contextlib.contextmanager
def _begun(run: SceneRun) -> Iterator[None]:
    """Hold the run's folder, record this start, and log; at the end, note how long that was, and publish the run.

    Raises UserError: another process is writing there, or there is something that cannot be gone on from.
    """
    folder, fresh = run.folder, not run.folder.exists()
    with locked(folder):
        try:
            run.check_saved()
            run.seconds_before = earlier_starts(folder).seconds
            run.tracking.open(resume=is_begun(folder))
            record(replaced_by(run.job), run.key, folder)
        except BaseException:
            run.tracking.close()
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        try:
            yield
        finally:
            with contextlib.suppress(UserError):  # another error is under way, or this one costs a figure
                note_seconds(folder, time.monotonic() - run.start)
        publish(folder)


def reconstruct_only(run: SceneRun) -> Figures:
    """The run that stops before the edit."""
    try:
        reconstruction = run.reconstruct()
        run.ranks.dismiss()
        run.check()
        run.tracking.begin("evaluating", 0)
        show_reconstruction(
            run.scene, reconstruction.renderer, run.folder, run.device, run.check, run.tracking
        )
        figures = with_totals(run, {**reconstruction.figures})
        run.tracking.log_summary(figures, 0)
        write_json(run.folder / "metrics.json", figures)
    finally:
        run.tracking.close()
    return figures


def reconstruct_and_edit(run: SceneEditRun) -> Figures:
    """The whole run."""
    try:
        reconstruction = run.reconstruct()
        run.tracking.log_summary(reconstruction.figures, 0)
        run.ranks.first(run.check)
        edited = run.edit(reconstruction.renderer)
        run.check()
        figures: Figures = {**reconstruction.figures, **edited.figures}
        figures.update(run.evaluate(reconstruction.renderer, edited))
        return finish_edit(run, figures, edited.steps)
    finally:
        run.tracking.close()


def finish_edit(run: SceneEditRun, figures: Figures, steps: int) -> Figures:
    """Add what the whole run took, write report and metrics.json, and hand all that came out to the tracking.

    Args:
        steps: of the edit.
    """
    figures["guidance"] = run.job.guidance.type
    figures = with_totals(run, figures)
    report = report_scene(run.job, run.judged_by, figures)
    run.tracking.log_summary(figures, steps)
    run.tracking.keep("report", "report", report)
    run.tracking.keep("film", "video", run.folder / "video.mp4")
    if run.job.upload_field:
        run.tracking.keep("field", "model", run.checkpoints / "last.safetensors")
    write_json(run.folder / "metrics.json", figures)
    return figures


def with_totals(run: SceneRun, figures: Figures) -> Figures:
    """The figures with the whole run's time, that of the processes that it resumed too, and its memory."""
    total = time.monotonic() - run.start + run.seconds_before
    return {**figures, "time/total_seconds": total, **memory_figures(run.device)}
