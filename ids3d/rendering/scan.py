"""Sums and products along packed segments: the samples of many rays in one flat tensor.

A packed tensor holds segment after segment. `packed_info` (n_segments, 2) int64 says where each begins and how many
entries it has (nerfacc's convention); segments lie in order, without gaps, and may be empty.

On CUDA these are nerfacc's kernels. Elsewhere sums are loops over the segments, so that no segment feels another one,
neither through rounding (in single precision a running sum over a million entries has lost a small one altogether) nor
through an inf. Products, whose gradient autograd finds, are a doubling scan (Hillis & Steele 1986): in pass k every
entry multiplies by the one 2^k before it, if that lies in its own segment.
"""

from __future__ import annotations

from typing import Any

import nerfacc
import torch
from torch import Tensor

from ids3d.rendering.loops import in_parts, running_sums


@torch.no_grad()
def pack_info(ray_indices: Tensor, n_rays: int) -> Tensor:
    """Return the start and the count of every ray's samples.

    Args:
        ray_indices: (n_samples,) int64, non-decreasing, in [0, n_rays).
        n_rays: number of rays, including those without a sample.

    Returns:
        packed_info (n_rays, 2) int64.
    """
    if ray_indices.is_cuda:
        return nerfacc.pack_info(ray_indices, n_rays)
    counts = torch.bincount(ray_indices, minlength=n_rays)
    return torch.stack([counts.cumsum(0) - counts, counts], dim=-1)


def inclusive_sum(inputs: Tensor, packed_info: Tensor) -> Tensor:
    """Return y_i = sum of x_j over j <= i of the same segment.

    Args:
        inputs: (n,) packed.
        packed_info: (n_segments, 2) int64.

    Returns:
        (n,). Differentiable in `inputs`.

    Example:
        >>> inclusive_sum(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([[0, 3], [3, 0], [3, 1]]))
        tensor([1., 3., 6., 4.])
    """
    if inputs.is_cuda:
        return nerfacc.inclusive_sum(inputs, packed_info)
    return _Sum.apply(inputs, packed_info, False, True)


def exclusive_sum(inputs: Tensor, packed_info: Tensor) -> Tensor:
    """Return y_i = sum of x_j over j < i of the same segment: 0 at its first entry. See `inclusive_sum`."""
    if inputs.is_cuda:
        return nerfacc.exclusive_sum(inputs, packed_info)
    return _Sum.apply(inputs, packed_info, False, False)


def inclusive_prod(inputs: Tensor, packed_info: Tensor) -> Tensor:
    """Return y_i = product of x_j over j <= i of the same segment.

    Differentiable in `inputs`, except on CUDA at inputs of zero: nerfacc's gradient divides by the input.
    """
    if inputs.is_cuda:
        return nerfacc.inclusive_prod(inputs, packed_info)
    return _product(inputs, _from_start(packed_info, len(inputs)))


def exclusive_prod(inputs: Tensor, packed_info: Tensor) -> Tensor:
    """Return y_i = product of x_j over j < i of the same segment: 1 at its first entry. See `inclusive_prod`."""
    if inputs.is_cuda:
        return nerfacc.exclusive_prod(inputs, packed_info)
    from_start = _from_start(packed_info, len(inputs))
    inclusive = _product(inputs, from_start)
    before = torch.cat([inclusive.new_ones(min(len(inclusive), 1)), inclusive[:-1]])
    return torch.where(from_start > 0, before, 1.0)


def _from_start(packed_info: Tensor, n: int) -> Tensor:
    """Return how far each of n entries is from its segment's first entry: (n,) int64."""
    starts, counts = packed_info.unbind(-1)
    place = torch.arange(n, device=packed_info.device)
    return place - torch.repeat_interleave(starts, counts, output_size=n)


def _product(x: Tensor, from_start: Tensor) -> Tensor:
    """Return the inclusive product of packed x (n,)."""
    longest = int(from_start.max()) + 1 if len(x) else 0
    reach = 1
    while reach < longest:
        later = torch.where(from_start[reach:] >= reach, x[reach:] * x[:-reach], x[reach:])
        x = torch.cat([x[:reach], later])
        reach *= 2
    return x


class _Sum(torch.autograd.Function):
    """The gradient of a sum from the start is the sum of the gradients from the end."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, packed_info: Tensor, backwards: bool, own: bool) -> Tensor:
        ctx.save_for_backward(packed_info)
        ctx.way = backwards, own
        starts, counts = (x.contiguous().numpy() for x in packed_info.unbind(-1))
        values, sums = (
            inputs.detach().contiguous(),
            torch.empty_like(inputs, memory_format=torch.contiguous_format),
        )
        arrays = values.numpy(), starts, counts
        in_parts(lambda a, b: running_sums(*arrays, backwards, own, a, b, sums.numpy()), len(starts))
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        backwards, own = ctx.way
        return _Sum.apply(grads[0], *ctx.saved_tensors, not backwards, own), None, None, None
