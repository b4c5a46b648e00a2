"""What all runs over a scene share, and their first phase: it is reconstructed, or what was reconstructed is taken."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import ids3d
from ids3d.cli import launch_command
from ids3d.data.step_batches import StepDataModule
from ids3d.device import pick_device
from ids3d.experiment import SceneJob
from ids3d.files import locked
from ids3d.models.renderers.protocol import Renderer
from ids3d.provenance import note_seconds
from ids3d.scene import Scene
from ids3d.systems.divergence import Watch
from ids3d.systems.edit_scene.changes import Steering
from ids3d.systems.fields import field_file, load_field, restore, save_field
from ids3d.systems.fitting import fit
from ids3d.systems.lightning_log import TrackingLogger
from ids3d.systems.ranks import Ranks
from ids3d.systems.reconstruct.quality import evenly, relative_depth_error, view_psnr, warn_of_poor
from ids3d.systems.resuming import ResumeCheckpoint
from ids3d.systems.run_folder import replaced_by
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import Figures, fingerprint, read_figures, write_json
from ids3d.systems.viewer.looking_on import LookingOn
from ids3d.systems.viewer.stage import Stage
from ids3d.tracking import Subject, Tracking

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds for another run to write the reconstruction that it shares with this one


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
        ranks: the processes that share the work; None: this one.

    Attributes:
        stage: where the run can be watched; None: nobody looks on.

    Raises UserError for everything that can be wrong with the config and the scene, before any training.
    """

    stage: Stage | None = None

    def __init__(self, job: SceneJob, stop: GracefulStop, ranks: Ranks | None = None) -> None:
        self.start = time.monotonic()
        job.check()
        self.job, self.stop, self.ranks = job, stop, ranks or Ranks()
        self.device = self.ranks.device(pick_device(job.device))
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
        several = {} if self.job.processes == 1 else {"processes": self.job.processes}
        return fingerprint({**shaping, **several, "version": ids3d.__version__, "scene": self.scene.digest})

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
        file = field_file(folder / "field.safetensors")
        restore(renderer, load_field(file, advice, self.device)[0], file, advice)
        return Reconstruction(renderer, figures)

    def reconstruct(self) -> Reconstruction:
        """The reconstruction: read if it is there, made otherwise."""
        folder = self.reconstruction_folder
        if self.ranks.first((folder / "metrics.json").exists):
            found = self.load_reconstruction()
            assert found is not None
            log.info("reconstruction: using %s", folder)
            self.ranks.first(self._forget_reconstructing)
            return found
        renderer = self.build_renderer()
        module, watch = self.job.reconstruct.build(renderer, self.scene, self.job.seed), Watch()
        if self.stage is not None:
            self.stage.open(renderer, None)
        seconds = self._fit(module, "reconstructing", self.reconstructing, watch, renderer)
        renderer.to(self.device)

        def kept() -> Figures:
            held_out, training = self._quality(renderer)
            warn_of_poor(held_out, training)
            figures: Figures = {
                "reconstruction/psnr": held_out,
                "reconstruction/psnr_training": training,
                **self._depth_error(renderer),
                "reconstruction/seconds": seconds,
                "reconstruction/skipped_steps": watch.skipped,
            }
            with locked(folder, "or give this run another output", wait=PATIENCE):
                save_field(folder / "field.safetensors", renderer, {})
                write_json(folder / "metrics.json", figures)
            self.save_in_passing()
            self._forget_reconstructing()
            return figures

        return Reconstruction(renderer, self.ranks.first(kept))

    def _forget_reconstructing(self) -> None:
        shutil.rmtree(self.reconstructing.path.parent, ignore_errors=True)

    def _quality(self, renderer: Renderer) -> tuple[float, float]:
        """PSNR over the held-out views and over some of the training views."""
        test, train = self.scene.test, self.scene.train
        held_out = view_psnr(renderer, test, range(len(test)), self.device, "held-out views")
        return held_out, view_psnr(renderer, train, evenly(len(train)), self.device, "training views")

    def _depth_error(self, renderer: Renderer) -> Figures:
        """How far its depth is from the true one, where that is known."""
        test, truth = self.scene.test, self.scene.truth
        if truth is None or truth.depths is None:
            return {}
        error = relative_depth_error(renderer, test, truth.depths, self.device)
        return {"reconstruction/depth_error": error}

    def _resume(self, path: Path, key: str, keep_end: bool = False) -> ResumeCheckpoint:
        minutes = self.job.save_minutes
        return ResumeCheckpoint(
            self.stop, path, key, self.resume_hint, minutes, self.save_in_passing, self.ranks, keep_end
        )

    def _fit(
        self,
        module: Any,
        label: str,
        resume: ResumeCheckpoint,
        watch: Watch,
        renderer: Renderer,
        steering: Steering | None = None,
    ) -> float:
        """Train a system of this run; the seconds it took, those of the processes before this one too."""
        callbacks: list[pl.Callback] = [] if steering is None else [steering]
        if self.stage is not None:
            callbacks.append(LookingOn(self.stage, label, renderer, lambda: self.stop.requested, steering))
        fit(
            module,
            StepDataModule(module.batch_of_step, len(self.scene.test)),
            module.steps(),
            label=label,
            device=self.device,
            resume=resume,
            watch=watch,
            begin=partial(self.tracking.begin, label) if self.ranks.is_first else None,
            callbacks=callbacks,
            loggers=[TrackingLogger(self.tracking)],
            validate_every=module.cfg.validate_every,
            log_every=module.cfg.log_every,
        )
        return resume.seconds
