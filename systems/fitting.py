"""How every LightningModule here is trained: steps without epochs, a progress line, exact resume."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ids3d.data.step_batches import StepDataModule
from ids3d.errors import UserError
from ids3d.files import atomic_write
from ids3d.progress import Progress
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import load_tensors, save_tensors

log = logging.getLogger(__name__)


class TensorCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written beside their place instead of in the system's folder for temporary files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_tensors(Path(path), checkpoint)


class ResumeCheckpoint(pl.Callback):
    """Save all that an exact resume needs: every few minutes, and between two steps when asked to stop. Keep the time.

    The last two checkpoints are kept: should the newer one be damaged, the older one is gone on from.

    Args:
        stop: asks for the stop.
        path: of the newer checkpoint.
        settings: a fingerprint of all that determines the training. A checkpoint of other settings is refused.
        resume_hint: a sentence for the user.
        save_minutes: between two checkpoints that are saved in passing, against a kill; 0 = none.
        on_save: called before each of them.
    """

    def __init__(
        self,
        stop: GracefulStop,
        path: Path,
        settings: str,
        resume_hint: str,
        save_minutes: float = 0,
        on_save: Callable[[], None] | None = None,
    ) -> None:
        self.stop, self.path, self.settings, self.resume_hint = stop, path, settings, resume_hint
        self.older = path.with_name(f"{path.stem}-older{path.suffix}")
        self.save_minutes, self.on_save = save_minutes, on_save
        self.seconds_before = 0.0  # spent by earlier processes
        self.steps_done = 0  # by the checkpoint that is gone on from
        self._start = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent in training so far, by this process and those that it resumed."""
        return self.seconds_before + time.monotonic() - self._start

    @cached_property
    def found(self) -> Path | None:
        """The checkpoint to go on from, None where there is none; a word where it is not the newest.

        Raises UserError: it is of other settings, or none can be read.
        """
        there = [path for path in (self.path, self.older) if path.exists()]
        for path in there:
            try:
                settings, step = self._read(path)
            except UserError:
                if path == there[-1]:
                    raise
                log.warning("%s is damaged: trying the one before it", path)
                continue
            if settings != self.settings:
                raise UserError(
                    f"{path} is of a run with other settings: give this run another tag, or delete that file"
                )
            self.steps_done = step
            if path != self.path:
                log.warning("going on from %s, after step %d", path, step)
            return path
        return None

    def _read(self, path: Path) -> tuple[object, int]:
        """Return the settings that a checkpoint is of, and its step. Raises UserError: it cannot be gone on from."""
        advice = "delete it, and the same command begins this phase anew"
        checkpoint = load_tensors(path, ("callbacks", "global_step", "state_dict"), advice, "cpu")
        try:
            saved = checkpoint["callbacks"][self.state_key]
            step, seconds = int(checkpoint["global_step"]), float(saved["seconds"])
            if step >= 0 and seconds >= 0:
                return saved["settings"], step
        except Exception as error:  # another program's can hold anything
            raise UserError(f"{path} is of another program: {advice}") from error
        raise UserError(f"{path} is damaged: it is of step {step}, after {seconds} s; {advice}")

    def discard(self) -> None:
        """Delete the checkpoints: the training is finished, and its result saved."""
        for path in (self.path, self.older):
            path.unlink(missing_ok=True)

    def on_train_start(self, *_: Any) -> None:
        self._start = self._saved = time.monotonic()
        self.stop.listen()  # Lightning has put a handler before it that ends a training before it is saved

    def state_dict(self) -> dict[str, Any]:
        return {"settings": self.settings, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds_before = float(state_dict["seconds"])

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        # Here all of the step before is done, validated and logged. After the last one there is nothing to save for:
        # the training ends by itself, and its result is saved then.
        trainer.fit_loop.epoch_loop._batches_that_stepped = (
            trainer.global_step
        )  # Lightning resumes with one too many
        due = self.save_minutes and time.monotonic() - self._saved > 60 * self.save_minutes
        if self.stop.requested or due:
            self._save(trainer)
        done = f"step {trainer.global_step} of {trainer.max_steps}"
        self.stop.check(f"stopped after {done}, saved to {self.path}. {self.resume_hint}")

    def _save(self, trainer: pl.Trainer) -> None:
        if self.on_save is not None:
            self.on_save()
        begun = trainer.fit_loop.epoch_loop.batch_progress
        with atomic_write(self.path) as file:
            for count in (begun.current, begun.total):  # without the step that is about to begin
                count.ready -= 1
            trainer.save_checkpoint(file)
            for count in (begun.current, begun.total):
                count.ready += 1
            if self.path.exists():
                self.path.replace(self.older)
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
        UserError: there are checkpoints, but of other settings, or none that can be read; or one cannot be written.
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
        plugins=[TensorCheckpoints()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume.found, weights_only=True)
    except SystemExit as left:  # how Lightning ends a training that was interrupted for the second time
        if isinstance(left.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
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
