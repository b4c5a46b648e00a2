"""The phases of a run that edits its scene: after the reconstruction the edit, then its evaluation."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ids3d.cli import launch_command
from ids3d.errors import UserError
from ids3d.experiment import SceneJob
from ids3d.models.guidance.protocol import Guidance
from ids3d.models.priors.protocol import Prior
from ids3d.models.renderers.protocol import Renderer
from ids3d.models.samplers.protocol import Sampler
from ids3d.module import Module
from ids3d.systems.divergence import Watch
from ids3d.systems.edit_scene.changes import ChangeRecord, Steering, changeable
from ids3d.systems.edit_scene.protocol import EditConfig, SceneEdit
from ids3d.systems.edit_scene.region import DIFFERENCE, EVERYWHERE, masks_digest
from ids3d.systems.evaluate.protocol import EvaluationSystem
from ids3d.systems.fields import field_file, load_field, restore, save_field
from ids3d.systems.prompts import scene_prompts, warn_of_foreign_scene
from ids3d.systems.ranks import Ranks
from ids3d.systems.resuming import ResumeCheckpoint
from ids3d.systems.scene_phases import SceneRun
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import DamagedFile, Figures, fingerprint
from ids3d.tracking import Subject

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted.ckpt"
"""What is saved of an edit that is not finished."""


@dataclass(frozen=True)
class EditedField:
    """A scene's field after its edit, the steps and seconds that this took, and how many of them were left out."""

    renderer: Renderer
    steps: int
    seconds: float
    skipped: int

    @property
    def figures(self) -> Figures:
        """Its figures under the names of metrics.json."""
        return {"edit/seconds": self.seconds, "edit/skipped_steps": self.skipped}


@dataclass(frozen=True)
class SavedEdit:
    """What an edited field's file holds: the renderer's state, and what its `EditedField` says beside it."""

    renderer: dict[str, Any]
    steps: int
    seconds: float
    skipped: int


class SceneEditRun(SceneRun):
    """A run that edits its scene from one prompt to another.

    Raises UserError also where there are no prompts.
    """

    prior: Prior
    method: Guidance | Sampler
    evaluation: EvaluationSystem

    def __init__(self, job: SceneJob, stop: GracefulStop, ranks: Ranks | None = None) -> None:
        super().__init__(job, stop, ranks)
        self.prompts = scene_prompts(job.prompt, self.scene)
        self.judged_by = self.prompts  # the prompts at the end of the edit

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
        self.build_edit(untrained, untrained, Watch())

    def prepare_evaluation(self) -> None:
        """Open what evaluates. Raises UserError."""
        self.evaluation = self.job.evaluate.build(
            self.scene, self.judged_by[1], self.folder, self.device, self.check, self.tracking
        )

    def load_prior(self) -> Prior:
        """The prior, on the run's device. Warns if it has never met what it is asked for."""
        prior: Prior = self.job.prior.build().to(self.device)
        warn_of_foreign_scene(prior, self.prompts, self.scene)
        return prior

    def check_saved(self) -> None:
        super().check_saved()
        self.changes.read()
        if self._read_finished_edit() is None:
            _ = self.editing.found

    def edit_key(self, edit: Module | None = None) -> str:
        """Names the edit: a digest of all that determines it; of another way to edit, where one is given."""
        settings = replace(self.job, edit=edit or self.job.edit).to_mapping()
        shaping = {key: settings[key] for key in ("prior", "guidance", "edit", "seed")}
        masks = {} if self._masks is None else {"masks": self._masks}
        return fingerprint(
            {**shaping, **masks, "prompts": self.prompts, "reconstruction": self.reconstruction_key()}
        )

    @cached_property
    def _masks(self) -> str | None:
        """Names the content of the masks that say where the edit may act; None: there are none."""
        cfg = self.job.edit.settings()
        region = cfg.region if isinstance(cfg, EditConfig) else EVERYWHERE
        return None if region in (EVERYWHERE, DIFFERENCE) else masks_digest(region, self.scene)

    @cached_property
    def editing(self) -> ResumeCheckpoint:
        """What this run has saved of an unfinished edit."""
        return self._resume(self.checkpoints / INTERRUPTED, self.edit_key(), keep_end=True)

    def build_edit(self, edited: Renderer, source: Renderer, watch: Watch) -> Any:
        """The system that edits a field, beside its source."""
        job = self.job
        inputs = SceneEdit(
            *(self.scene, source, self.prior, self.method, self.prompts, job.seed, self.tracking),
            processes=job.processes,
            watch=watch,
        )
        return job.edit.build(edited, inputs)

    def edit(self, source: Renderer) -> EditedField:
        """The edited field: read if this run's editing is finished, made otherwise. What comes after is not shared."""
        finished = self._read_finished_edit() if self.ranks.is_first else None
        if self.ranks.first(lambda: finished is not None):
            self.ranks.dismiss()
            assert finished is not None
            self.editing.discard()
            return self.restore_edited(source, finished)
        edited, watch = copy.deepcopy(source), Watch()
        module = self.build_edit(edited, source, watch)
        if self.stage is not None:
            self.stage.open(source, edited)
        steps = module.steps()
        steering = Steering(self.changes, self.method, changeable(self.job, self.prompts))
        seconds = self._fit(module, "editing", self.editing, watch, edited, steering)
        self.ranks.dismiss()
        edited.to(self.device)
        about = {
            "settings": self.edit_key(),
            "seconds": seconds,
            "steps": steps,
            "skipped": watch.skipped,
        }
        save_field(self.checkpoints / "last.safetensors", edited, about)
        self.save_in_passing()
        self.editing.discard()
        return EditedField(edited, steps, seconds, watch.skipped)

    @property
    def has_edited(self) -> bool:
        """Whether the edited field is there."""
        return self._last.exists()

    @property
    def changes(self) -> ChangeRecord:
        """The record of the settings that were changed while the edit ran."""
        return ChangeRecord(self.folder)

    @property
    def _last(self) -> Path:
        """The edited field's file."""
        return field_file(self.checkpoints / "last.safetensors")

    def _read_finished_edit(self) -> SavedEdit | None:
        """What that holds, None where there is none, or a damaged one and a checkpoint to make it from again."""
        if not self._last.exists():
            return None
        try:
            return self.read_edited()
        except DamagedFile as error:
            if self.editing.found is None:
                raise
            log.warning("%s", error)
            return None

    def read_edited(self) -> SavedEdit:
        """What the edited field's file holds. Raises UserError: it is not there, damaged, or of other settings."""
        last = self._last
        if not last.exists():
            raise UserError(f"there is no {last}: nothing has been edited in {self.folder} yet")
        state, about = load_field(last, self._edit_again, self.device)
        try:
            saved = SavedEdit(
                state, int(about["steps"]), float(about["seconds"]), int(about.get("skipped", 0))
            )
            sane = 0 <= saved.steps < 1e12 and 0 <= saved.seconds < 1e12 and 0 <= saved.skipped < 1e12
            settings = about["settings"]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DamagedFile(last, self._edit_again) from error
        if not sane:
            raise DamagedFile(last, self._edit_again)
        if settings != self.edit_key():
            raise UserError(
                f"{last} is of a run with other settings: give this run another tag, or delete that file"
            )
        return saved

    @property
    def _edit_again(self) -> str:
        return f"delete it, and {launch_command()} --resume {self.folder} edits again"

    def restore_edited(self, source: Renderer, saved: SavedEdit) -> EditedField:
        """The edited field that `read_edited` has read.

        Args:
            source: the unedited field. Not changed.
        """
        edited = copy.deepcopy(source)
        restore(edited, saved.renderer, self._last, self._edit_again)
        return EditedField(edited, saved.steps, saved.seconds, saved.skipped)

    def evaluate(self, source: Renderer, edited: EditedField) -> Figures:
        """The figures of the edit; writes its images and its film."""
        self.tracking.begin("evaluating", 0)
        if self.stage is not None:
            self.stage.say(phase="evaluating")
        target = self.changes.target(edited.steps, self.prompts[1])
        if target != self.judged_by[1]:
            self.judged_by = (self.prompts[0], target)
            self.prepare_evaluation()
        figures: Figures = {**self.evaluation.figures(source, edited.renderer, edited.steps)}
        self.evaluation.film(source, edited.renderer, edited.steps)
        return figures
