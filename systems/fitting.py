"""How every LightningModule here is trained: steps without epochs, a progress line, exact resume."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from ids3d.data.step_batches import StepDataModule
from ids3d.errors import Interrupted, UserError
from ids3d.files import atomic_write
from ids3d.progress import Progress
from ids3d.systems.stopping import GracefulStop


class ResumeCheckpoint(pl.Callback):
    """Stop between two steps when asked to, and save all that an exact resume needs; keep the time.

    Args:
        stop: asks for the stop.
        path: of the checkpoint, which is there while the training is not finished.
        settings: a fingerprint of all that determines the training. A checkpoint of other settings is refused.
        resume_hint: a sentence for the user.
        save_minutes: between two checkpoints that are saved in passing, against a kill; 0 = none.
    """

    def __init__(
        self, stop: GracefulStop, path: Path, settings: str, resume_hint: str, save_minutes: float = 0
    ) -> None:
        self.stop, self.path, self.settings, self.resume_hint = stop, path, settings, resume_hint
        self.save_minutes = save_minutes
        self.seconds_before = 0.0  # spent by earlier processes
        self._start = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent in training so far, by this process and those that it resumed."""
        return self.seconds_before + time.monotonic() - self._start

    def state_dict(self) -> dict[str, Any]:
        return {"settings": self.settings, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["settings"] != self.settings:
            raise UserError(
                f"{self.path} is of a run with other settings: give this run another tag, or delete that file"
            )
        self.seconds_before = state_dict["seconds"]

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        # After the last step there is nothing to save for: training ends by itself, and its result is saved then.
        if trainer.global_step >= trainer.max_steps:
            return
        due = self.save_minutes and time.monotonic() - self._saved > 60 * self.save_minutes
        if self.stop.requested or due:
            self._save(trainer)
        if self.stop.requested:
            done = f"step {trainer.global_step} of {trainer.max_steps}"
            raise Interrupted(f"stopped after {done}, saved to {self.path}. {self.resume_hint}")

    def _save(self, trainer: pl.Trainer) -> None:
        with atomic_write(self.path) as file:
            trainer.save_checkpoint(file)
        self._saved = time.monotonic()


class StepProgress(pl.Callback):
    """`Progress` over a training's steps, with the figures that the module logs with prog_bar=True."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._progress: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._progress = Progress(self.label, total=trainer.max_steps, done=trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._progress is not None:
            figures = trainer.progress_bar_metrics
            self._progress.advance(" ".join(f"{k.rsplit('/', 1)[-1]} {v:.4g}" for k, v in figures.items()))

    def on_train_end(self, *_: Any) -> None:
        self._close()

    def on_exception(self, *_: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None


def fit(
    module: pl.LightningModule,
    data: StepDataModule,
    steps: int,
    *,
    label: str,
    device: torch.device,
    resume: ResumeCheckpoint,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
    validate_every: int = 0,
    log_every: int = 20,
) -> None:
    """Train `module` for `steps` optimiser steps in all, from `resume`'s checkpoint on if it is there.

    Args:
        label: the phase's name, for the progress line.
        callbacks: Lightning's, to look on.
        validate_every: steps between two validations; 0 = none.

    Raises:
        Interrupted: a stop was asked for; the state is saved.
        UserError: the checkpoint is of other settings.
    """
    trainer = pl.Trainer(
        accelerator="cuda" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        max_steps=steps,
        max_epochs=-1,
        logger=list(loggers) or False,
        callbacks=[StepProgress(label), *callbacks, resume],
        val_check_interval=validate_every or None,
        check_val_every_n_epoch=None,
        limit_val_batches=data.held_out if validate_every else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=log_every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    path = str(resume.path) if resume.path.exists() else None
    try:
        trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    except SIGTERMException:  # how Lightning ends a training that SIGTERM reached in its last step
        if trainer.global_step < steps:
            raise


def quieten_lightning() -> None:
    """Silence what Lightning says about itself; what it says about the run stays."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*`Trainer.fit` stopped.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
    ):
        warnings.filterwarnings("ignore", message)
