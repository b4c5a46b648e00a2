"""Numbers that are not finite, where they arise: left out, gone back from at a lower rate, and in the end a clear stop.

A step whose loss or gradient is not finite changes nothing; of views that are edited side by side, only those are left
out whose numbers are not finite. After IN_A_ROW such steps in a row the training goes back to the last good state and
does the steps from there again, at half the rates. After ROLLBACKS of that it stops, with that state kept.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import Precision
from torch import Tensor
from torch.nn.utils import get_total_norm

from ids3d.errors import UserError
from ids3d.systems.averaging import average_gradients
from ids3d.systems.checkpoints import save_before_step

log = logging.getLogger(__name__)

IN_A_ROW = 5
ROLLBACKS = 3
SLOWER = 0.5
GOOD_EVERY = 100
"""Steps between two states that are kept in memory to go back to: their number, not their time, so that it repeats."""


def finite_views(views: Tensor) -> Tensor:
    """Tell of each of b views (b, ...) whether all its numbers are finite, (b,) bool; by one number each, their sum."""
    return views.flatten(1).float().sum(dim=1).isfinite()


class GoBack(Exception):
    """The training is to go on from its last good state."""


class Watch(pl.Callback):
    """What a training left out because it was not finite, and the state that it can go back to.

    All of it is part of a checkpoint.

    Args:
        good_every: steps between two states that are kept; where a state is large and a step quick, more of them.

    Attributes:
        skipped: steps that were left out, or some of whose views were.
        rollbacks: how often the training went back.
    """

    def __init__(self, good_every: int = GOOD_EVERY) -> None:
        self.good_every = good_every
        self.skipped = self.rollbacks = self._in_a_row = 0
        self._good: tuple[int, bytes] | None = None  # a step, and the checkpoint before it
        self._candidate: tuple[int, bytes] | None = None  # good, if the step that begins with it is
        self._losses: list[Tensor] = []
        self._views, self._left_out, self._bad = 0, 0, False

    @property
    def share(self) -> float:
        """Of the rates, that is still taken."""
        return SLOWER**self.rollbacks

    def finite(self, views: Tensor) -> Tensor:
        """Tell of each of b views (b, ...) whether it is finite, (b,) bool, and note that the others are left out."""
        finite = finite_views(views)
        self._views += len(views)
        self._left_out += len(views) - int(finite.sum())
        return finite

    def passes(self, optimizer: torch.optim.Optimizer, several: bool) -> bool:
        """Tell whether a step is to be made: some views are left, and losses and gradient are finite.

        With several processes, all get the mean gradient, and the same answer.
        """
        total = (
            torch.stack([loss.float() for loss in self._losses]).sum() if self._losses else torch.zeros(())
        )
        left_out, views = float(self._left_out), float(self._views)
        if several:
            numbers = optimizer.param_groups[0]["params"][0].new_tensor([float(total), left_out, views])
            total, *counts = average_gradients(optimizer, numbers)
            left_out, views = map(float, counts)
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if grads:
            total = total.to(grads[0].device) + get_total_norm(grads)
        is_finite = bool(total.isfinite())
        self._bad = not is_finite or left_out > 0
        return is_finite and not 0 < views == left_out

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._losses, self._views, self._left_out, self._bad = [], 0, 0, False
        step = trainer.global_step
        if self._good is None or (self._in_a_row == 0 and step - self._good[0] >= self.good_every):
            good, self._good = self._good, None  # no state within a state
            content = io.BytesIO()
            save_before_step(trainer, content)
            self._good, self._candidate = good, (step, content.getvalue())

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._candidate is not None and (not self._bad or self._good is None):
            self._good = self._candidate
        self._candidate = None
        if not self._bad:
            self._in_a_row = 0
            return
        if not self.skipped:
            log.warning(
                "step %d is not finite, and left out, as others will be: they are counted",
                trainer.global_step,
            )
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= IN_A_ROW:
            raise GoBack

    def go_back(self) -> tuple[int, dict[str, Any]]:
        """Return the last good step and the checkpoint before it, which lowers the rates of what comes."""
        assert self._good is not None
        step, content = self._good
        self.rollbacks += 1
        self._in_a_row = 0
        try:
            checkpoint = torch.load(io.BytesIO(content), weights_only=True)
            checkpoint["callbacks"][self.state_key] = self.state_dict()
        except Exception as error:  # what came from a foreign checkpoint can be anything
            raise UserError("the state to go back to is damaged: begin under another tag") from error
        return step, checkpoint

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "in_a_row": self._in_a_row,
        }
        if self._good is not None:
            step, content = self._good
            state["good"] = (step, torch.from_numpy(np.frombuffer(content, np.uint8).copy()))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.rollbacks = int(state_dict["skipped"]), int(state_dict["rollbacks"])
        self._in_a_row, self._good = int(state_dict["in_a_row"]), None
        if "good" in state_dict:
            step, content = state_dict["good"]
            self._good = int(step), content.cpu().numpy().tobytes()


class FiniteSteps(Precision):
    """Makes the steps that the watch lets pass, at the rates that it leaves; the gradient is that of all processes."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        result = closure()
        self._after_closure(model, optimizer)
        if self.watch.passes(optimizer, model.trainer.world_size > 1):
            rates, share = [group["lr"] for group in optimizer.param_groups], self.watch.share
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share
            optimizer.step(**kwargs)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        return result
