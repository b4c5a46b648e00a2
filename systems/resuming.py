"""What a training saves on its way, and goes on from: exactly, or not at all."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from ids3d.errors import UserError
from ids3d.files import atomic_write
from ids3d.systems.checkpoints import count_steps, save_after_step, save_before_step
from ids3d.systems.fields import is_finite
from ids3d.systems.ranks import Ranks
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import DamagedFile, load_tensors, save_tensors

log = logging.getLogger(__name__)

ANEW = "delete it, and the same command begins this phase anew"
"""What to do about a checkpoint that cannot be gone on from."""


EARLY = 0.9
"""When a checkpoint is due, as a share of the time that a kill may cost: the rest is for a step and for the writing."""


END = "finished.ckpt"
"""What is kept of a training that is finished, beside its checkpoints."""


class ResumeCheckpoint(pl.Callback):
    """Save all that an exact resume needs: every few minutes, and between two steps when asked to stop. Keep the time.

    The last two checkpoints are kept: should the newer one be damaged, the older one is gone on from.

    Args:
        stop: asks for the stop.
        path: of the newer checkpoint.
        settings: a fingerprint of all that determines the training. A checkpoint of other settings is refused.
        resume_hint: a sentence for the user.
        save_minutes: of work that a kill may cost: a checkpoint is saved in passing in time for it; 0 = none.
        on_save: called before each of them.
        keep_end: what more steps go on from is kept when the training is finished.
        ranks: the processes that train together; the first one writes.
    """

    def __init__(
        self,
        stop: GracefulStop,
        path: Path,
        settings: str,
        resume_hint: str,
        save_minutes: float = 0,
        on_save: Callable[[], None] | None = None,
        ranks: Ranks | None = None,
        keep_end: bool = False,
    ) -> None:
        self.stop, self.path, self.settings, self.resume_hint = stop, path, settings, resume_hint
        self.older = path.with_name(f"{path.stem}-older{path.suffix}")
        self.save_minutes, self.on_save, self.ranks = save_minutes, on_save, ranks or Ranks()
        self.end, self.keep_end = path.with_name(END), keep_end
        self.seconds_before = 0.0  # spent by earlier processes
        self.steps_done = 0  # by the checkpoint that is gone on from
        self._optimisers = 0  # whose states it holds
        self.has_begun = False  # the training: a checkpoint to go on from is restored
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
        checkpoint = load_tensors(path, ("callbacks", "global_step", "state_dict"), ANEW, "cpu")
        try:
            saved = checkpoint["callbacks"][self.state_key]
            step, seconds = int(checkpoint["global_step"]), float(saved["seconds"])
            finite = all(map(is_finite, checkpoint["state_dict"].values()))
            self._optimisers = len(checkpoint["optimizer_states"])
        except Exception as error:  # another program's can hold anything
            raise UserError(f"{path} is of another program: {ANEW}") from error
        if not (step >= 0 and 0 <= seconds < math.inf):
            raise UserError(f"{path} is damaged: it is of step {step}, after {seconds} s; {ANEW}")
        if not finite:
            raise UserError(f"{path} is damaged: it holds weights that are nan or infinite; {ANEW}")
        return saved["settings"], step

    def discard(self) -> None:
        """Delete the checkpoints: the training is finished, and its result saved."""
        for path in (self.path, self.older):
            path.unlink(missing_ok=True)

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.found is not None:
            self._check_restored(trainer)
        self.has_begun = True
        self._start = self._saved = time.monotonic()
        self.stop.listen()  # Lightning has put a handler before it that ends a training before it is saved

    def _check_restored(self, trainer: pl.Trainer) -> None:
        """Raise ValueError where what was restored cannot be gone on from: Lightning and torch take nearly anything."""
        done = vars(trainer.fit_loop.epoch_loop.batch_progress.current)
        if {trainer.global_step, *done.values()} != {self.steps_done} or self.steps_done > trainer.max_steps:
            raise ValueError(f"of step {trainer.global_step}, {done}")
        if len(trainer.optimizers) != self._optimisers:
            raise ValueError(f"states of {self._optimisers} optimisers")
        for optimizer in trainer.optimizers:
            for parameter, state in optimizer.state.items():
                for value in filter(torch.is_tensor, state.values()):
                    if not is_finite(value) or value.shape not in (parameter.shape, torch.Size()):
                        raise ValueError(f"an optimiser's state of {tuple(value.shape)}")
            rates = [group["lr"] for group in optimizer.param_groups]
            if not all(isinstance(rate, float) and math.isfinite(rate) for rate in rates):
                raise ValueError(f"rates of {rates}")

    def state_dict(self) -> dict[str, Any]:
        return {"settings": self.settings, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds_before = float(state_dict["seconds"])

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        count_steps(trainer)
        # After the last step there is nothing to save for: the training ends by itself, and its result is saved then.
        due = self.save_minutes and time.monotonic() - self._saved > 60 * EARLY * self.save_minutes
        # Whichever process was asked to stop, all do, at the same step.
        exit_code, due = self.ranks.greatest([self.stop.exit_code, due and self.ranks.is_first])
        if exit_code or due:
            self._save(trainer)
        if exit_code:
            self.ranks.dismiss()
            self.stop.exit_code = int(exit_code)
            done = f"step {trainer.global_step} of {trainer.max_steps}"
            self.stop.check(f"stopped after {done}, saved to {self.path}. {self.resume_hint}")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not self.keep_end or trainer.global_step < trainer.max_steps:
            return
        if not self.ranks.is_first:
            save_after_step(trainer, self.end)
            return
        with atomic_write(self.end) as file:
            save_after_step(trainer, file)

    def _save(self, trainer: pl.Trainer) -> None:
        if not self.ranks.is_first:
            save_before_step(trainer, self.path)  # meets the first one there, and writes nothing
            return
        if self.on_save is not None:
            self.on_save()
        self._write(lambda file: save_before_step(trainer, file))

    def replace(self, checkpoint: dict[str, Any]) -> None:
        """Save this checkpoint, to go on from it."""
        checkpoint["callbacks"][self.state_key] = self.state_dict()
        self._write(lambda file: save_tensors(file, checkpoint))

    def forget(self) -> None:
        """Look for checkpoints anew."""
        self.__dict__.pop("found", None)

    def _write(self, save: Callable[[Path], None]) -> None:
        self._saved = time.monotonic()
        with atomic_write(self.path) as file:
            save(file)
            if self.path.exists():
                self.path.replace(self.older)


def continue_finished(end: Path, path: Path, settings: str) -> None:
    """Save what a finished training has kept as a checkpoint of one of other settings, which goes on from it.

    Raises UserError: it is damaged.
    """
    checkpoint = load_tensors(end, ("callbacks", "global_step", "state_dict"), "delete it", "cpu")
    try:
        checkpoint["callbacks"][ResumeCheckpoint.__qualname__]["settings"] = settings
    except (KeyError, TypeError) as error:
        raise DamagedFile(end, "delete it") from error
    save_tensors(path, checkpoint)
