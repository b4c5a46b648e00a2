"""Trainings of several processes: each computes a gradient of its own, and all step along the mean."""

from __future__ import annotations

import torch
from pytorch_lightning.overrides.distributed import _sync_module_states
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor


class AveragingStrategy(DDPStrategy):
    """DDP without DistributedDataParallel around the module, which would hold on to parameters that are replaced.

    A field that is refined has new parameters; and gradients come to it from several backward passes, not all of them
    Lightning's. They are averaged once, before the optimiser's step: `average_gradients`.
    """

    def configure_ddp(self) -> None:
        assert self.model is not None
        _sync_module_states(self.model)


def average_gradients(optimizer: torch.optim.Optimizer, numbers: Tensor) -> Tensor:
    """Put the mean over all processes in the place of each gradient, and return the sums of `numbers` (n,)."""
    parameters = [
        p
        for group in optimizer.param_groups
        for p in group["params"]
        if p.requires_grad or p.grad is not None
    ]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([numbers, *(grad.flatten() for grad in grads)])
    torch.distributed.all_reduce(flat)
    sums, *means = flat.split([len(numbers), *(grad.numel() for grad in grads)])
    for parameter, mean in zip(parameters, means, strict=True):
        parameter.grad = mean.view_as(parameter) / torch.distributed.get_world_size()
    return sums
