"""Optimisers for a field that is moved by guidance rather than by a loss.

Adam divides each parameter's gradient by that parameter's own history. Where guidance says "almost nothing" (the
background) it then moves as fast as where guidance says "change this", and what the guidance preserves is lost in
the optimiser. The two here keep the gradient's proportions: one scale for everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class ScalarAdam(torch.optim.Optimizer):
    """Adam with one second moment per tensor: the mean of g^2 over the entries that got a gradient at all.

        m <- b1 m + (1 - b1) g
        v <- b2 v + (1 - b2) mean(g_i^2 : g_i != 0)
        p <- p - lr m^ / (sqrt(v^) + eps)

    with Adam's bias corrections (Kingma & Ba 2015, algorithm 1). `lr` is thus about the change of a typical touched
    entry per step, in the parameter's own units. Entries without a gradient are left out of the mean because a view
    touches a small part of a grid, how small depending on the grid's resolution.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-12
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(step=0, mean=torch.zeros_like(parameter), square=parameter.new_zeros(()))
                gradient = parameter.grad
                touched = (gradient != 0).sum().clamp_min(1)
                state["step"] += 1
                state["mean"].lerp_(gradient, 1 - first)
                state["square"].lerp_(gradient.square().sum() / touched, 1 - second)
                mean_scale = 1 - first ** state["step"]
                root = (state["square"] / (1 - second ** state["step"])).sqrt() + group["eps"]
                parameter.sub_(state["mean"] * (group["lr"] / mean_scale / root))
        return loss


class CalibratedSGD(torch.optim.Optimizer):
    """SGD whose step is measured where the guidance acts: in the latent, not in the parameters.

    With J the Jacobian of the latent z in the parameters p, guidance q reaches the parameters as g = J^T q. A step
    p <- p - s g moves the latent by -s J J^T q, whose part along q is s k with k = (q . J J^T q) / |q|^2
    = |g|^2 / |q|^2. So s = lr / k moves the latent, to first order, by lr q along q: what plain SGD with the step
    lr does to a latent in two dimensions, whatever the field, the resolution and the encoder. k is smoothed over
    steps (numerator and denominator apart), being a property of field and views, not of the noise drawn. g is
    smoothed by `momentum` as an average, which leaves the length of a step alone.

    With `shrink`, each entry's average m is multiplied by the Wiener gain max(0, m^2 - n) / m^2, n being the variance
    that the noise of single steps leaves in the average: (E[g^2] - m^2) c / (1 - c) with c the sum of the squared
    weights of the average, (1 - b) / (1 + b) in the long run. Where steps agree, as in what the edit changes, it is
    near 1; where they point now here, now there, as in the background, it is 0, and the field does not drift.

    Call `observe` with |q|^2 before every `step`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        smoothing: float = 0.95,
        shrink: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "smoothing": smoothing, "shrink": shrink}
        super().__init__(params, defaults)
        # In a group, so that state_dict() keeps them: weighted sums of |g|^2 and |q|^2, and the step count.
        self.param_groups[0].update(gradient_sq=0.0, signal_sq=0.0, steps=0)
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
        head = self.param_groups[0]
        gradient_sq = sum(float(g.square().sum()) for g in self._gradients())
        smooth = head["smoothing"]
        head["gradient_sq"] = smooth * head["gradient_sq"] + (1 - smooth) * gradient_sq
        head["signal_sq"] = smooth * head["signal_sq"] + (1 - smooth) * self._observed
        head["steps"] += 1
        self._observed = None
        if not head["gradient_sq"]:  # no gradient so far: nothing to move, and no scale to move it by
            return loss
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                    if group["shrink"]:
                        state["square"] = torch.zeros_like(parameter)
                keep, gradient = group["momentum"], parameter.grad
                state["mean"].lerp_(gradient, 1 - keep)
                unbiased = 1 - keep ** head["steps"]
                move = state["mean"] / unbiased
                if group["shrink"]:
                    state["square"].lerp_(gradient.square(), 1 - keep)
                    move = move * wiener_gain(move, state["square"] / unbiased, keep, head["steps"])
                parameter.sub_(move, alpha=group["lr"] / self.gain)
        return loss

    def _gradients(self) -> list[Tensor]:
        return [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]


def wiener_gain(mean: Tensor, square: Tensor, momentum: float, steps: int) -> Tensor:
    """What part of a running average is signal, in [0, 1] for each entry; see `CalibratedSGD`.

    Args:
        mean, square: averages of g and g^2 over `steps` steps with weights that fall by `momentum`, of one shape and
            free of the bias to zero.
    """
    decayed = momentum**steps
    share = (1 - momentum) / (1 + momentum) * (1 + decayed) / (1 - decayed)  # c; 1 after a single step
    if share >= 1:
        return torch.ones_like(mean)  # one step, or no memory: nothing is known of the noise
    signal = mean.square()
    noise = (square - signal).clamp(min=0) * (share / (1 - share))
    return ((signal - noise) / signal.clamp(min=torch.finfo(signal.dtype).tiny)).clamp(0, 1)


def cosine(progress: float, floor: float = 0.0) -> float:
    """1 at progress 0, `floor` at progress 1, half a cosine wave between."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
