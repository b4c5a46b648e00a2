"""Run a frozen network in half precision without losing the gradients that pass back through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def run_in(dtype: torch.dtype, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute `network(x)` in `dtype`, for an `x` of any floating type; return it in the type of `x`, at least float32.

    Differentiable in `x`. In half precision the gradient is scaled on its way back, as a loss scaler would do it: a
    power of two brings the largest entry of the incoming gradient to about one, and the outgoing one is divided by it
    again in the type of `x`. Without this a gradient below 6e-8 is zero in float16 before the network has even seen it.
    """
    out_dtype = torch.promote_types(x.dtype, torch.float32)
    if dtype.itemsize >= 4:
        return network(x.to(dtype)).to(out_dtype)
    scale = _Scale()
    return _ScaleGradient.apply(network(_UnscaleGradient.apply(x, dtype, scale)), out_dtype, scale)


class _Scale:
    """The factor by which one backward pass multiplied its gradient."""

    value: Tensor | float = 1.0


class _ScaleGradient(torch.autograd.Function):
    """Cast from half to `dtype`; backwards, cast the gradient to half after multiplying it by a power of two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, scale: _Scale) -> Tensor:
        ctx.dtype, ctx.scale = x.dtype, scale
        return x.to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        _, exponent = torch.frexp(grad.abs().amax())
        ctx.scale.value = torch.ldexp(torch.ones((), dtype=grad.dtype, device=grad.device), -exponent)
        return (grad * ctx.scale.value).to(ctx.dtype), None, None


class _UnscaleGradient(torch.autograd.Function):
    """Cast to `dtype`; backwards, cast the gradient to the type of `x` and divide by the factor of `_ScaleGradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, scale: _Scale) -> Tensor:
        ctx.dtype, ctx.scale = x.dtype, scale
        return x.to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.to(torch.promote_types(ctx.dtype, torch.float32)) / ctx.scale.value
        return grad.to(ctx.dtype), None, None
