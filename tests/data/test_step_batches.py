"""Batches by index: where a training starts, and what each of several processes gets."""

from __future__ import annotations

import os
from itertools import islice
from types import SimpleNamespace

import pytest

from ids3d.data.step_batches import StepDataModule, StepDataset


def test_batches_depend_on_their_index_alone() -> None:
    assert list(islice(StepDataset(lambda i: i * i, start=3), 4)) == [9, 16, 25, 36]


@pytest.mark.parametrize("processes", [1, 3])
def test_processes_share_the_batches_of_one(processes: int) -> None:
    """Together, and from any step on, n processes draw what one draws, each batch once."""
    drawn = []
    for rank in range(processes):
        module = StepDataModule(lambda index: index, held_out=2)
        module.trainer = SimpleNamespace(world_size=processes, global_rank=rank, global_step=5)  # type: ignore[assignment]
        drawn.append(list(islice(module.train_dataloader(), 4)))
        assert list(module.val_dataloader()) == [0, 1]
    steps = [index for step in zip(*drawn, strict=True) for index in step]
    assert steps == list(range(5 * processes, 9 * processes))


@pytest.mark.parametrize("processes", [1, 2])
def test_workers_make_the_same_batches_in_the_same_order(processes: int) -> None:
    """And in other processes than the training's."""
    for rank in range(processes):
        module = StepDataModule(lambda index: (index, os.getpid()), held_out=2, workers=3)
        module.trainer = SimpleNamespace(world_size=processes, global_rank=rank, global_step=4)  # type: ignore[assignment]
        indices, makers = zip(*islice(module.train_dataloader(), 8), strict=True)
        assert list(indices) == list(range(4 * processes + rank, 12 * processes + rank, processes))
        assert len(set(makers)) == 3 and os.getpid() not in makers
