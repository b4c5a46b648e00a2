"""One run over a scene: reconstruct it (or take the reconstruction that is there), edit it, evaluate."""

from __future__ import annotations

import copy
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ids3d
from ids3d.cli import launch_command
from ids3d.data.step_batches import StepDataModule
from ids3d.device import pick_device
from ids3d.errors import UserError
from ids3d.experiment import SceneJob
from ids3d.files import atomic_write
from ids3d.metrics import mean_of_finite, psnr
from ids3d.models.priors.protocol import Prior
from ids3d.models.renderers.protocol import Renderer
from ids3d.progress import track
from ids3d.provenance import record
from ids3d.scene import Scene
from ids3d.systems.edit_scene.protocol import SceneEdit
from ids3d.systems.evaluate.held_out import show_reconstruction
from ids3d.systems.fitting import ResumeCheckpoint, fit, quieten_lightning
from ids3d.systems.prompts import scene_prompts, warn_of_foreign_scene
from ids3d.systems.report import report_scene
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import Figures, fingerprint, memory_figures, write_json
from ids3d.tracking import Tracking

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reconstruction:
    """A scene's field as it was reconstructed, and its figures under the names of metrics.json."""

    renderer: Renderer
    figures: Figures


class SceneRun:
    """The phases of one run, and what they share.

    Args:
        job: the config; `job.folder` is the run's folder.
        stop: says when to stop.

    Raises UserError for everything that can be wrong with the config and the scene, before any training.
    """

    def __init__(self, job: SceneJob, stop: GracefulStop) -> None:
        job.check()
        self.job, self.stop, self.folder = job, stop, job.folder
        self.device = pick_device(job.device)
        self.checkpoints = self.folder / "checkpoints"
        trust = " --trust-code" if job.names_code else ""
        self.resume_hint = f"To go on: {launch_command()} --resume {self.folder}{trust}"
        self.scene: Scene = job.data.build().load()
        self.seconds_before = 0.0  # spent in training by the processes that this one resumed

    def check(self) -> None:
        """Raise Interrupted if a stop was asked for. For phases that keep nothing but what is on the disk already."""
        self.stop.check(f"stopped; what is finished is saved. {self.resume_hint}")

    def build_renderer(self) -> Renderer:
        """An untrained field and its renderer, the same for the same seed."""
        torch.manual_seed(self.job.seed)
        geometry = self.job.geometry.build(self.scene.bounds)
        renderer: Renderer = self.job.renderer.build(geometry, self.scene.bounds)
        return renderer.to(self.device)

    def reconstruction_key(self) -> str:
        """Names the reconstruction: a digest of the images, the cameras, and every setting that shapes the field."""
        settings = self.job.to_mapping()
        shaping = {key: settings[key] for key in ("geometry", "renderer", "reconstruct", "seed")}
        return fingerprint({**shaping, "version": ids3d.__version__, "scene": self.scene.digest})

    @property
    def reconstruction_folder(self) -> Path:
        """Where the reconstruction lies, for all runs that share it."""
        return Path(self.job.output) / "reconstructions" / self.reconstruction_key()

    def load_reconstruction(self) -> Reconstruction | None:
        """The reconstruction that is there; None if there is none yet."""
        folder = self.reconstruction_folder
        if not (folder / "metrics.json").exists():
            return None
        renderer = self.build_renderer()
        renderer.load_state_dict(torch.load(folder / "field.pt", map_location=self.device, weights_only=True))
        return Reconstruction(renderer, json.loads((folder / "metrics.json").read_text(encoding="utf-8")))

    def reconstruct(self, tracking: Tracking) -> Reconstruction:
        """The reconstruction: read if it is there, made otherwise."""
        folder, found = self.reconstruction_folder, self.load_reconstruction()
        if found is not None:
            log.info("reconstruction: using %s", folder)
            return found
        renderer, key = self.build_renderer(), self.reconstruction_key()
        module = self.job.reconstruct.build(renderer, self.scene, self.job.seed)
        seconds = self._fit(module, "reconstructing", folder / "interrupted.ckpt", key, tracking)
        renderer.to(self.device)
        figures: Figures = {
            "reconstruction/psnr": self._held_out_psnr(renderer),
            "reconstruction/seconds": seconds,
        }
        with atomic_write(folder / "field.pt") as file:
            torch.save(renderer.state_dict(), file)
        write_json(folder / "metrics.json", figures)
        (folder / "interrupted.ckpt").unlink(missing_ok=True)
        return Reconstruction(renderer, figures)

    def _held_out_psnr(self, renderer: Renderer) -> float:
        test, values = self.scene.test, []
        for i in track(range(len(test)), "held-out views"):
            values.append(psnr(renderer.render(test.cameras[i].to(self.device)).rgb.cpu(), test.images[i]))
        return mean_of_finite(values)

    def _fit(self, module: Any, label: str, interrupted: Path, key: str, tracking: Tracking) -> float:
        """Train a system of this run; the seconds it took, those of the processes before this one too."""
        resume = ResumeCheckpoint(self.stop, interrupted, key, self.resume_hint)
        fit(
            module,
            StepDataModule(module.batch_of_step, len(self.scene.test)),
            module.cfg.steps,
            label=label,
            device=self.device,
            resume=resume,
            loggers=tracking.loggers,
            validate_every=module.cfg.validate_every,
            log_every=module.cfg.log_every,
        )
        self.seconds_before += resume.seconds_before
        return resume.seconds


class SceneEditRun(SceneRun):
    """A run that edits its scene from one prompt to another.

    Raises UserError also where there are no prompts.
    """

    def __init__(self, job: SceneJob, stop: GracefulStop) -> None:
        super().__init__(job, stop)
        self.prompts = scene_prompts(job.prompt, self.scene)

    def load_prior(self) -> Prior:
        """The prior, on the run's device. Warns if it has never met what it is asked for."""
        prior: Prior = self.job.prior.build().to(self.device)
        warn_of_foreign_scene(prior, self.prompts, self.scene)
        return prior

    def edit_key(self) -> str:
        """Names the edit: a digest of all that determines it."""
        settings = self.job.to_mapping()
        shaping = {key: settings[key] for key in ("prior", "guidance", "edit", "seed")}
        return fingerprint({**shaping, "prompts": self.prompts, "reconstruction": self.reconstruction_key()})

    def edit(self, source: Renderer, prior: Prior, tracking: Tracking) -> tuple[Renderer, float]:
        """The edited field: read if this run's editing is finished, made otherwise; and the seconds it took."""
        job, last, key = self.job, self.checkpoints / "last.ckpt", self.edit_key()
        if last.exists():
            return self.restore_edited(source, self.read_edited())
        edited = copy.deepcopy(source)
        guidance = job.guidance.build(prior)
        inputs = SceneEdit(self.scene, source, prior, guidance, self.prompts, job.seed, tracking)
        module = job.edit.build(edited, inputs)
        interrupted = self.checkpoints / "interrupted.ckpt"
        seconds = self._fit(module, "editing", interrupted, key, tracking)
        edited.to(self.device)
        state = {"settings": key, "seconds": seconds, "renderer": edited.state_dict()}
        with atomic_write(last) as file:
            torch.save(state, file)
        interrupted.unlink(missing_ok=True)
        return edited, seconds

    def read_edited(self) -> dict[str, Any]:
        """What checkpoints/last.ckpt holds. Raises UserError: it is not there, or of other settings."""
        last = self.checkpoints / "last.ckpt"
        if not last.exists():
            raise UserError(f"there is no {last}: nothing has been edited in {self.folder} yet")
        state = torch.load(last, map_location=self.device, weights_only=True)
        if state["settings"] != self.edit_key():
            raise UserError(
                f"{last} is of a run with other settings: give this run another tag, or delete that file"
            )
        return dict(state)

    def restore_edited(self, source: Renderer, state: dict[str, Any]) -> tuple[Renderer, float]:
        """The edited field of `read_edited`'s state, and the seconds that its editing took.

        Args:
            source: the unedited field. Not changed.
        """
        edited = copy.deepcopy(source)
        edited.load_state_dict(state["renderer"])
        return edited, float(state["seconds"])

    def evaluate(self, source: Renderer, edited: Renderer, tracking: Tracking) -> Figures:
        """The figures of the edit; writes its images and its film."""
        job, steps = self.job, self.job.edit.settings().steps
        evaluation = job.evaluate.build(
            self.scene, self.prompts[1], self.folder, self.device, self.check, tracking
        )
        figures: Figures = {**evaluation.figures(source, edited, steps)}
        evaluation.film(source, edited, steps)
        return figures


def run(job: SceneJob) -> Figures:
    """Reconstruct, edit and evaluate as `job` says. Leaves everything in `job.folder`.

    A folder with an unfinished run of the same settings is resumed; a finished one is done again.

    Returns:
        The figures of metrics.json.

    Raises:
        UserError: something is wrong that the user can put right; found before any training.
        Interrupted: Ctrl-C or SIGTERM; the message says how to go on.
    """
    start = time.monotonic()
    quieten_lightning()
    with GracefulStop() as stop:
        if job.stage == "reconstruct":
            return reconstruct_only(SceneRun(job, stop), start)
        return reconstruct_and_edit(SceneEditRun(job, stop), start)


def reconstruct_only(run: SceneRun, start: float) -> Figures:
    """The run that stops before the edit. `start`: when it began, by time.monotonic()."""
    tracking = _begin(run)
    try:
        reconstruction = run.reconstruct(tracking)
        run.check()
        show_reconstruction(run.scene, reconstruction.renderer, run.folder, run.device, run.check)
    finally:
        tracking.close()
    figures = with_totals(run, {**reconstruction.figures}, start)
    write_json(run.folder / "metrics.json", figures)
    return figures


def reconstruct_and_edit(run: SceneEditRun, start: float) -> Figures:
    """The whole run. `start`: when it began, by time.monotonic()."""
    prior = run.load_prior()
    tracking = _begin(run)
    try:
        reconstruction = run.reconstruct(tracking)
        run.check()
        edited, seconds = run.edit(reconstruction.renderer, prior, tracking)
        run.check()
        figures: Figures = {**reconstruction.figures, "edit/seconds": seconds}
        figures.update(run.evaluate(reconstruction.renderer, edited, tracking))
    finally:
        tracking.close()
    return finish_edit(run, figures, start)


def _begin(run: SceneRun) -> Tracking:
    """Put away the results of a finished run, record this start, and open the tracking."""
    if (run.folder / "metrics.json").exists():
        for old in ("metrics.json", "checkpoints/last.ckpt", "checkpoints/interrupted.ckpt"):
            (run.folder / old).unlink(missing_ok=True)
    record(run.job)
    return Tracking(run.job, run.folder, resume=run.checkpoints.exists())


def finish_edit(run: SceneEditRun, figures: Figures, start: float) -> Figures:
    """Add what the whole run took, and write report and metrics.json."""
    figures["guidance"] = run.job.guidance.type
    figures = with_totals(run, figures, start)
    report_scene(run.job, run.prompts, figures)
    write_json(run.folder / "metrics.json", figures)
    return figures


def with_totals(run: SceneRun, figures: Figures, start: float) -> Figures:
    """The figures with the whole run's time, that of the processes that it resumed too, and its memory."""
    total = time.monotonic() - start + run.seconds_before
    return {**figures, "time/total_seconds": total, **memory_figures(run.device)}
