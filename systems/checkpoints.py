"""How a Lightning training is written down: beside its place, and between two steps."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ids3d.systems.storage import save_tensors


class TensorCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written to memory, or beside their place, not in the system's temporary folder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if isinstance(path, io.BytesIO):
            torch.save(checkpoint, path)
        else:
            save_tensors(Path(path), checkpoint)


def save_before_step(trainer: pl.Trainer, place: Path | io.BytesIO) -> None:
    """Save all that an exact resume needs, as it stands before the step that is about to begin (on_train_batch_start).

    All of the step before is done, validated and logged.
    """
    loop = trainer.fit_loop.epoch_loop
    count_steps(trainer)
    counts = (loop.batch_progress.current, loop.batch_progress.total)
    for count in counts:  # without the step that is about to begin
        count.ready -= 1
    trainer.save_checkpoint(place)  # type: ignore[arg-type]
    for count in counts:
        count.ready += 1


def save_after_step(trainer: pl.Trainer, place: Path) -> None:
    """The same as it stands after the step that is about to end (on_train_batch_end), before a validation of it."""
    loop = trainer.fit_loop.epoch_loop
    counts, stepped = (loop.batch_progress.current, loop.batch_progress.total), loop._batches_that_stepped
    count_steps(trainer)
    for count in counts:
        count.completed += 1
    trainer.save_checkpoint(place)
    for count in counts:
        count.completed -= 1
    loop._batches_that_stepped = stepped  # by which the step is yet to be logged


def count_steps(trainer: pl.Trainer) -> None:
    """Have Lightning number what it logs by the steps that are done: resumed, it counts one too many."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
