"""The phases of a run over a scene: reconstruct it (or take the reconstruction that is there), edit it, evaluate."""

from __future__ import annotations

import copy
import logging
import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import ids3d
from ids3d.cli import launch_command
from ids3d.data.step_batches import StepDataModule
from ids3d.device import pick_device
from ids3d.errors import UserError
from ids3d.experiment import SceneJob
from ids3d.metrics import mean_of_finite, psnr
from ids3d.models.guidance.protocol import Guidance
from ids3d.models.priors.protocol import Prior
from ids3d.models.renderers.protocol import Renderer
from ids3d.models.samplers.protocol import Sampler
from ids3d.progress import track
from ids3d.provenance import note_seconds
from ids3d.scene import Scene
from ids3d.systems.edit_scene.protocol import SceneEdit
from ids3d.systems.evaluate.protocol import EvaluationSystem
from ids3d.systems.fitting import ResumeCheckpoint, fit
from ids3d.systems.lightning_log import TrackingLogger
from ids3d.systems.prompts import scene_prompts, warn_of_foreign_scene
from ids3d.systems.run_folder import replaced_by
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import (
    DamagedFile,
    Figures,
    fingerprint,
    load_tensors,
    read_figures,
    save_tensors,
    write_json,
)
from ids3d.tracking import Subject, Tracking

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reconstruction:
    """A scene's field as it was reconstructed, and its figures under the names of metrics.json."""

    renderer: Renderer
    figures: Figures


@dataclass(frozen=True)
class EditedField:
    """A scene's field after its edit, and the steps and seconds that this took."""

    renderer: Renderer
    steps: int
    seconds: float


class SceneRun:
    """The phases of one run, and what they share.

    Args:
        job: the config; `job.folder` is the run's folder.
        stop: says when to stop.

    Raises UserError for everything that can be wrong with the config and the scene, before any training.
    """

    def __init__(self, job: SceneJob, stop: GracefulStop) -> None:
        self.start = time.monotonic()
        job.check()
        self.job, self.stop = job, stop
        self.device = pick_device(job.device)
        self.scene: Scene = job.data.build().load()
        self.seconds_before = 0.0  # that this run's earlier processes ran for

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.job.folder

    @property
    def checkpoints(self) -> Path:
        """The folder of the edit's checkpoints."""
        return self.folder / "checkpoints"

    @cached_property
    def tracking(self) -> Tracking:
        """Logs this run, once it is open."""
        return Tracking(replaced_by(self.job), self.folder, self.subject)

    @property
    def subject(self) -> Subject:
        """What this run is about."""
        return Subject(self.scene.name)

    @property
    def resume_hint(self) -> str:
        """A sentence on how to go on."""
        trust = " --trust-code" if self.job.names_code else ""
        return f"To go on: {launch_command()} --resume {replaced_by(self.job).folder}{trust}"

    @property
    def key(self) -> str:
        """Names all that determines what this run makes."""
        return self.reconstruction_key()

    def prepare(self) -> None:
        """Open all that will be needed. Raises UserError: something is wrong with it."""

    def check(self) -> None:
        """Raise Interrupted if a stop was asked for. For phases that keep nothing but what is on the disk already."""
        self.stop.check(f"stopped; what is finished is saved. {self.resume_hint}")

    def check_saved(self) -> None:
        """Raise UserError if this run has saved something that it cannot go on from."""
        if not (self.reconstruction_folder / "metrics.json").exists():
            _ = self.reconstructing.found

    def save_in_passing(self) -> None:
        """Write what has been logged, and how long this process has been running."""
        self.tracking.flush()
        note_seconds(self.folder, time.monotonic() - self.start)

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

    @cached_property
    def reconstructing(self) -> ResumeCheckpoint:
        """What this run has saved of an unfinished reconstruction."""
        return self._resume(self.folder / "reconstruction" / "interrupted.ckpt", self.reconstruction_key())

    def load_reconstruction(self) -> Reconstruction | None:
        """The reconstruction that is there; None if there is none yet. Raises UserError: it is damaged."""
        folder = self.reconstruction_folder
        if not (folder / "metrics.json").exists():
            return None
        advice = f"delete {folder} and reconstruct again, which gives the same field"
        figures, renderer = read_figures(folder / "metrics.json", advice), self.build_renderer()
        restore(
            renderer, load_tensors(folder / "field.pt", (), advice, self.device), folder / "field.pt", advice
        )
        return Reconstruction(renderer, figures)

    def reconstruct(self) -> Reconstruction:
        """The reconstruction: read if it is there, made otherwise."""
        folder, found = self.reconstruction_folder, self.load_reconstruction()
        if found is not None:
            log.info("reconstruction: using %s", folder)
            self._forget_reconstructing()
            return found
        renderer = self.build_renderer()
        module = self.job.reconstruct.build(renderer, self.scene, self.job.seed)
        seconds = self._fit(module, "reconstructing", self.reconstructing)
        renderer.to(self.device)
        figures: Figures = {
            "reconstruction/psnr": self._held_out_psnr(renderer),
            "reconstruction/seconds": seconds,
        }
        save_tensors(folder / "field.pt", renderer.state_dict())
        write_json(folder / "metrics.json", figures)
        self.save_in_passing()
        self._forget_reconstructing()
        return Reconstruction(renderer, figures)

    def _forget_reconstructing(self) -> None:
        shutil.rmtree(self.reconstructing.path.parent, ignore_errors=True)

    def _held_out_psnr(self, renderer: Renderer) -> float:
        test, values = self.scene.test, []
        for i in track(range(len(test)), "held-out views"):
            values.append(psnr(renderer.render(test.cameras[i].to(self.device)).rgb.cpu(), test.images[i]))
        return mean_of_finite(values)

    def _resume(self, path: Path, key: str) -> ResumeCheckpoint:
        minutes = self.job.save_minutes
        return ResumeCheckpoint(self.stop, path, key, self.resume_hint, minutes, self.save_in_passing)

    def _fit(self, module: Any, label: str, resume: ResumeCheckpoint) -> float:
        """Train a system of this run; the seconds it took, those of the processes before this one too."""
        self.tracking.begin(label, resume.steps_done if resume.found else 0)
        fit(
            module,
            StepDataModule(module.batch_of_step, len(self.scene.test)),
            module.steps(),
            label=label,
            device=self.device,
            resume=resume,
            loggers=[TrackingLogger(self.tracking)],
            validate_every=module.cfg.validate_every,
            log_every=module.cfg.log_every,
        )
        return resume.seconds


class SceneEditRun(SceneRun):
    """A run that edits its scene from one prompt to another.

    Raises UserError also where there are no prompts.
    """

    prior: Prior
    method: Guidance | Sampler
    evaluation: EvaluationSystem

    def __init__(self, job: SceneJob, stop: GracefulStop) -> None:
        super().__init__(job, stop)
        self.prompts = scene_prompts(job.prompt, self.scene)

    @property
    def key(self) -> str:
        return self.edit_key()

    @property
    def subject(self) -> Subject:
        return Subject(self.scene.name, self.prompts)

    def prepare(self) -> None:
        """Open all that will be needed: prior, guidance, what evaluates. Raises UserError."""
        self.prior = self.load_prior()
        self.method = self.job.guidance.build(self.prior)
        self.prepare_evaluation()
        untrained = self.build_renderer()
        self._build_edit(untrained, untrained)

    def prepare_evaluation(self) -> None:
        """Open what evaluates. Raises UserError."""
        self.evaluation = self.job.evaluate.build(
            self.scene, self.prompts[1], self.folder, self.device, self.check, self.tracking
        )

    def load_prior(self) -> Prior:
        """The prior, on the run's device. Warns if it has never met what it is asked for."""
        prior: Prior = self.job.prior.build().to(self.device)
        warn_of_foreign_scene(prior, self.prompts, self.scene)
        return prior

    def check_saved(self) -> None:
        super().check_saved()
        if self._read_finished_edit() is None:
            _ = self.editing.found

    def edit_key(self) -> str:
        """Names the edit: a digest of all that determines it."""
        settings = self.job.to_mapping()
        shaping = {key: settings[key] for key in ("prior", "guidance", "edit", "seed")}
        return fingerprint({**shaping, "prompts": self.prompts, "reconstruction": self.reconstruction_key()})

    @cached_property
    def editing(self) -> ResumeCheckpoint:
        """What this run has saved of an unfinished edit."""
        return self._resume(self.checkpoints / "interrupted.ckpt", self.edit_key())

    def _build_edit(self, edited: Renderer, source: Renderer) -> Any:
        job = self.job
        inputs = SceneEdit(self.scene, source, self.prior, self.method, self.prompts, job.seed, self.tracking)
        return job.edit.build(edited, inputs)

    def edit(self, source: Renderer) -> EditedField:
        """The edited field: read if this run's editing is finished, made otherwise."""
        finished = self._read_finished_edit()
        if finished is not None:
            self.editing.discard()
            return self.restore_edited(source, finished)
        edited = copy.deepcopy(source)
        module = self._build_edit(edited, source)
        steps, seconds = module.steps(), self._fit(module, "editing", self.editing)
        edited.to(self.device)
        state = {
            "settings": self.edit_key(),
            "seconds": seconds,
            "steps": steps,
            "renderer": edited.state_dict(),
        }
        save_tensors(self.checkpoints / "last.ckpt", state)
        self.save_in_passing()
        self.editing.discard()
        return EditedField(edited, steps, seconds)

    def _read_finished_edit(self) -> dict[str, Any] | None:
        """What last.ckpt holds, None where there is none, or a damaged one and a checkpoint to make it from again."""
        if not (self.checkpoints / "last.ckpt").exists():
            return None
        try:
            return self.read_edited()
        except DamagedFile as error:
            if self.editing.found is None:
                raise
            log.warning("%s", error)
            return None

    def read_edited(self) -> dict[str, Any]:
        """What checkpoints/last.ckpt holds. Raises UserError: it is not there, damaged, or of other settings."""
        last = self.checkpoints / "last.ckpt"
        if not last.exists():
            raise UserError(f"there is no {last}: nothing has been edited in {self.folder} yet")
        state = load_tensors(
            last, ("settings", "seconds", "steps", "renderer"), self._edit_again, self.device
        )
        if state["settings"] != self.edit_key():
            raise UserError(
                f"{last} is of a run with other settings: give this run another tag, or delete that file"
            )
        return state

    @property
    def _edit_again(self) -> str:
        return f"delete it, and {launch_command()} --resume {self.folder} edits again"

    def restore_edited(self, source: Renderer, state: dict[str, Any]) -> EditedField:
        """The edited field of `read_edited`'s state.

        Args:
            source: the unedited field. Not changed.
        """
        edited = copy.deepcopy(source)
        restore(edited, state["renderer"], self.checkpoints / "last.ckpt", self._edit_again)
        return EditedField(edited, int(state["steps"]), float(state["seconds"]))

    def evaluate(self, source: Renderer, edited: EditedField) -> Figures:
        """The figures of the edit; writes its images and its film."""
        self.tracking.begin("evaluating", 0)
        figures: Figures = {**self.evaluation.figures(source, edited.renderer, edited.steps)}
        self.evaluation.film(source, edited.renderer, edited.steps)
        return figures


def restore(renderer: Renderer, state: Any, path: Path, advice: str) -> None:
    """Bring a field to the state that was read from `path`. Raises DamagedFile: that is of no such field."""
    try:
        renderer.load_state_dict(state)
    except Exception as error:  # a foreign state can raise anything
        raise DamagedFile(path, advice) from error
