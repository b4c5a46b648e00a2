"""A finished run read back from its folder: for evaluating it again, for viewers and for exports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ids3d.errors import UserError
from ids3d.experiment import SceneJob, load_saved
from ids3d.files import locked
from ids3d.models.renderers.protocol import Renderer
from ids3d.scene import Scene
from ids3d.systems.fitting import quieten_lightning
from ids3d.systems.scene_edit_phases import EditedField, SceneEditRun
from ids3d.systems.scene_phases import Reconstruction, SceneRun
from ids3d.systems.scene_run import finish_edit
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import Figures


@dataclass(frozen=True)
class SavedRun:
    """What a finished run holds.

    Attributes:
        job: its config.
        scene: as it was captured.
        prompts: (source, target).
        source: the renderer of the field before the edit.
        edited: the field after it.
        figures: the reconstruction's, and the seconds of the edit.
    """

    job: SceneJob
    scene: Scene
    prompts: tuple[str, str]
    source: Renderer
    edited: EditedField
    figures: Figures


def load_job(folder: Path, trust_code: bool = False) -> SceneJob:
    """The config of a run's folder, where that lies now.

    Raises UserError: it is no run over a scene, or names code by an import path, without `trust_code`.
    """
    job = load_saved(folder, trust_code=trust_code)
    if not isinstance(job, SceneJob):
        raise UserError(f"{folder} is no run over a scene")
    return job


def load_run(folder: Path, trust_code: bool = False) -> SavedRun:
    """A finished run from its folder; see `load_job`.

    Raises UserError: it is none, or the field before or after its edit is gone.
    """
    with GracefulStop() as stop:
        return read_run(SceneEditRun(load_job(folder, trust_code), stop))


def read_run(run: SceneEditRun) -> SavedRun:
    """A finished run. Raises UserError: it is none, or the field before or after its edit is gone."""
    state = run.read_edited()
    reconstruction = read_reconstruction(run)
    edited = run.restore_edited(reconstruction.renderer, state)
    figures: Figures = {**reconstruction.figures, **edited.figures}
    return SavedRun(run.job, run.scene, run.prompts, reconstruction.renderer, edited, figures)


def read_reconstruction(run: SceneRun) -> Reconstruction:
    """The field before a run's edit. Raises UserError: it is gone."""
    reconstruction = run.load_reconstruction()
    if reconstruction is None:
        raise UserError(
            f"{run.folder}: its reconstruction, {run.reconstruction_folder}, is gone or was made with other settings: "
            f"make it again with --config {run.folder / 'config.yaml'} output={run.job.output} stage=reconstruct "
            "tag=again"
        )
    return reconstruction


def evaluate_again(job: SceneJob) -> Figures:
    """Evaluate the edited field in `job.folder` anew, as `job` says; the figures of metrics.json.

    Raises:
        UserError: nothing is edited there, or not with these settings.
        Interrupted: Ctrl-C or SIGTERM.
    """
    quieten_lightning()
    with GracefulStop() as stop:
        run = SceneEditRun(job, stop)
        saved = read_run(run)
        run.prepare_evaluation()
        with locked(run.folder):
            run.tracking.open(resume=True)
            try:
                figures = {**saved.figures, **run.evaluate(saved.source, saved.edited)}
                return finish_edit(run, figures, saved.edited.steps)
            finally:
                run.tracking.close()
