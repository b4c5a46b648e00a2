"""The optimiser of a field that is moved by guidance rather than by a loss.

Adam divides each parameter's gradient by that parameter's own history. Where guidance says "almost nothing" (the
background) it then moves as fast as where guidance says "change this", and what the guidance preserves is lost in
the optimiser. The one here keeps the gradient's proportions: one scale for everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class CalibratedSGD(torch.optim.Optimizer):
    """SGD whose step is measured where the guidance acts: in the latent, not in the parameters.

    With J the Jacobian of the latent z in the parameters p, guidance q reaches the parameters as g = J^T q. A step
    p <- p - s g moves the latent by -s J J^T q, whose part along q is s k with k = (q . J J^T q) / |q|^2
    = |g|^2 / |q|^2. So s = lr / k moves the latent, to first order, by lr q along q: what plain SGD with the step
    lr does to a latent in two dimensions, whatever the field, the resolution and the encoder. k is smoothed over
    steps (numerator and denominator apart), being a property of field and views, not of the noise drawn.

    Call `observe` with |q|^2 before every `step`.
    """

    def __init__(self, params: Iterable[Any], lr: float, smoothing: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "smoothing": smoothing})
        # In a group, so that state_dict() keeps them: weighted sums of |g|^2 and |q|^2.
        self.param_groups[0].update(gradient_sq=0.0, signal_sq=0.0)
        self._observed: float | None = None

    def observe(self, signal_sq: float) -> None:
        """|q|^2 of the guidance gradient q whose pull-back the parameters' `grad` holds."""
        self._observed = float(signal_sq)

    @property
    def gain(self) -> float:
        """k: how far the latent moves along q per unit step of the parameters; nan before the first step."""
        group = self.param_groups[0]
        return group["gradient_sq"] / group["signal_sq"] if group["signal_sq"] else math.nan

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Raise RuntimeError when `observe` was not called since the last step."""
        if self._observed is None:
            raise RuntimeError("CalibratedSGD.step() without observe(): it has no measure of the guidance")
        loss = closure() if closure is not None else None
        moved = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        gradient_sq = sum(float(p.grad.square().sum()) for p, _ in moved)
        head = self.param_groups[0]
        smooth = head["smoothing"]
        head["gradient_sq"] = smooth * head["gradient_sq"] + (1 - smooth) * gradient_sq
        head["signal_sq"] = smooth * head["signal_sq"] + (1 - smooth) * self._observed
        self._observed = None
        if head[
            "gradient_sq"
        ]:  # otherwise there is no gradient so far: nothing to move, and no scale to move it by
            for parameter, group in moved:
                parameter.sub_(parameter.grad, alpha=group["lr"] / self.gain)
        return loss


def cosine(progress: float, floor: float = 0.0) -> float:
    """1 at progress 0, `floor` at progress 1, half a cosine wave between."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
