"""Batches for trainings that count steps, not epochs: each is a function of the seed and its index alone.

A training that was stopped and resumed so sees the batches that it would have seen, and each of several processes its
own.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class StepDataset(IterableDataset[Any]):
    """Endless: batch_of(start), batch_of(start + stride), ...; of w worker processes, each makes every w-th.

    Args:
        batch_of: makes the batch of an index; the same one whenever it is asked.
    """

    def __init__(self, batch_of: Callable[[int], Any], start: int = 0, stride: int = 1) -> None:
        self.batch_of, self.start, self.stride = batch_of, start, stride

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, apart = (worker.id, worker.num_workers) if worker else (0, 1)
        indices = itertools.count(self.start + first * self.stride, apart * self.stride)
        return (self.batch_of(index) for index in indices)


def _leave_signals_to_the_training(worker: int) -> None:
    """Ctrl-C and a cluster's SIGTERM reach every process of a group; a worker ends when the training does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class StepDataModule(pl.LightningDataModule):
    """What a Trainer draws from: a batch for each step, and the indices of held-out views to validate on, one by one.

    With several processes, step s of process r of n gets batch s * n + r.

    Args:
        batch_of: see StepDataset.
        held_out: how many held-out views there are.
        workers: processes that make batches beside the training's; 0: it makes its own. The batches are the same.
    """

    def __init__(self, batch_of: Callable[[int], Any], held_out: int, workers: int = 0) -> None:
        super().__init__()
        self.batch_of, self.held_out, self.workers = batch_of, held_out, workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the step on at which the training stands."""
        assert self.trainer is not None
        ranks = self.trainer.world_size
        start = self.trainer.global_step * ranks + self.trainer.global_rank
        return DataLoader(
            StepDataset(self.batch_of, start, ranks),
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,  # the pictures are there already
            worker_init_fn=_leave_signals_to_the_training,
        )

    def val_dataloader(self) -> DataLoader[int]:
        """Indices 0 to held_out - 1."""
        return DataLoader(range(self.held_out), batch_size=None)  # type: ignore[arg-type]
