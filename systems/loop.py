"""What every training here does alike: steps without epochs, a progress line, and stopping at a safe point."""

from __future__ import annotations

import itertools
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from ids3d.errors import Interrupted, UserError
from ids3d.files import atomic_write
from ids3d.progress import Progress


class GracefulStop:
    """Turns Ctrl-C and SIGTERM into a wish that the phases look at where it is safe to stop.

        with GracefulStop() as stop:
            for view in views:
                stop.check("nothing is lost: run it again")
                ...

    A second Ctrl-C raises KeyboardInterrupt there and then. Handlers are installed in the main thread only (Python
    allows no other), and put back at the end.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> GracefulStop:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread
            pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def check(self, how_to_go_on: str) -> None:
        """Raises Interrupted with that message if someone wants the run to stop."""
        if self.requested:
            raise Interrupted(how_to_go_on)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        print(
            "\nstopping at the next safe point (Ctrl-C again: at once, unsaved)", file=sys.stderr, flush=True
        )


class ResumeCheckpoint(pl.Callback):
    """Stops between two steps when that is wanted, with all that going on exactly needs saved; and keeps the time.

    Args:
        settings: a fingerprint of all that determines the training. A checkpoint of other settings is refused.
        how_to_go_on: a sentence for the user.
        save_every: steps between two checkpoints that are saved in passing, against a kill; 0 = none.
    """

    def __init__(
        self, stop: GracefulStop, path: Path, settings: str, how_to_go_on: str, save_every: int = 0
    ) -> None:
        self.stop, self.path, self.settings, self.how_to_go_on = stop, path, settings, how_to_go_on
        self.save_every = save_every
        self.seconds_before = 0.0  # spent by earlier processes
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent in training so far, by this process and those that it goes on from."""
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
        if self.stop.requested or (self.save_every and trainer.global_step % self.save_every == 0):
            self._save(trainer)
        if self.stop.requested:
            done = f"step {trainer.global_step} of {trainer.max_steps}"
            raise Interrupted(f"stopped after {done}, saved to {self.path}. {self.how_to_go_on}")

    def _save(self, trainer: pl.Trainer) -> None:
        with atomic_write(self.path) as file:
            trainer.save_checkpoint(file)


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


class Forever:
    """A loader without end or length: the systems draw their own batches, from the seed and the step."""

    def __iter__(self) -> Iterator[int]:
        return itertools.repeat(0)


class Indices(torch.utils.data.Dataset[int]):
    """0 to n - 1, for the validation of one view at a time."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> int:
        if not 0 <= i < self.n:
            raise IndexError(i)
        return i


def train(
    module: pl.LightningModule,
    steps: int,
    *,
    label: str,
    views: int,
    device: torch.device,
    resume: ResumeCheckpoint,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
    validate_every: int = 0,
    log_every: int = 20,
) -> None:
    """Train `module` for `steps` optimiser steps in all, going on from the resume's checkpoint if it is there.

    Args:
        label: the phase's name, for the progress line.
        callbacks: Lightning's, to look on.
        views: held-out views; validation_step gets their indices.
        validate_every: steps between two validations; 0 = none.

    Raises:
        Interrupted: a stop was wanted; the state is saved.
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
        limit_val_batches=views if validate_every else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=log_every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader: Any = torch.utils.data.DataLoader(Indices(views), batch_size=None)
    path = str(resume.path) if resume.path.exists() else None
    try:
        trainer.fit(module, Forever(), loader, ckpt_path=path, weights_only=True)
    except SIGTERMException:  # how Lightning ends a training that SIGTERM reached in its last step
        if trainer.global_step < steps:
            raise
