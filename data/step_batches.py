"""Batches for trainings that count steps, not epochs: each is a function of the seed and its index alone.

A training that was stopped and resumed so sees the batches that it would have seen, and each of several processes its
own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, IterableDataset


class StepDataset(IterableDataset[Any]):
    """Endless: batch_of(start), batch_of(start + stride), ...

    Args:
        batch_of: makes the batch of an index; the same one whenever it is asked.
    """

    def __init__(self, batch_of: Callable[[int], Any], start: int = 0, stride: int = 1) -> None:
        self.batch_of, self.start, self.stride = batch_of, start, stride

    def __iter__(self) -> Iterator[Any]:
        return (self.batch_of(index) for index in itertools.count(self.start, self.stride))


class StepDataModule(pl.LightningDataModule):
    """What a Trainer draws from: a batch for each step, and the indices of held-out views to validate on, one by one.

    With several processes, step s of process r of n gets batch s * n + r.

    Args:
        batch_of: see StepDataset.
        held_out: how many held-out views there are.
    """

    def __init__(self, batch_of: Callable[[int], Any], held_out: int) -> None:
        super().__init__()
        self.batch_of, self.held_out = batch_of, held_out

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the step on at which the training stands."""
        assert self.trainer is not None
        ranks = self.trainer.world_size
        start = self.trainer.global_step * ranks + self.trainer.global_rank
        return DataLoader(StepDataset(self.batch_of, start, ranks), batch_size=None)

    def val_dataloader(self) -> DataLoader[int]:
        """Indices 0 to held_out - 1."""
        return DataLoader(range(self.held_out), batch_size=None)  # type: ignore[arg-type]
