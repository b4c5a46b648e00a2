"""Sums and products along packed segments: the samples of many rays in one flat tensor.

A packed tensor holds segment after segment. `packed_info` (n_segments, 2) int64 says where each begins and how many
entries it has (nerfacc's convention); segments lie in order, without gaps, and may be empty.

On CUDA these are nerfacc's kernels. Elsewhere a doubling scan (Hillis & Steele 1986): in pass k every entry adds the
one 2^k before it, if that lies in its own segment. That takes log2(longest segment) vectorised passes, and unlike a
running sum over everything less the sum at the segment's start, no segment feels another one: neither through rounding
(in single precision a running sum over a million entries has lost a small one altogether) nor through an inf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nerfacc
import torch
from torch import Tensor


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
    return _InclusiveSum.apply(inputs, *_places(packed_info, len(inputs)))


def exclusive_sum(inputs: Tensor, packed_info: Tensor) -> Tensor:
    """Return y_i = sum of x_j over j < i of the same segment: 0 at its first entry. See `inclusive_sum`."""
    if inputs.is_cuda:
        return nerfacc.exclusive_sum(inputs, packed_info)
    from_start, from_end = _places(packed_info, len(inputs))
    return _after_first(_InclusiveSum.apply(inputs, from_start, from_end), from_start, 0.0)


def inclusive_prod(inputs: Tensor, packed_info: Tensor) -> Tensor:
    """Return y_i = product of x_j over j <= i of the same segment.

    Differentiable in `inputs`, except on CUDA at inputs of zero: nerfacc's gradient divides by the input.
    """
    if inputs.is_cuda:
        return nerfacc.inclusive_prod(inputs, packed_info)
    return _scan(inputs, _places(packed_info, len(inputs))[0], torch.mul)


def exclusive_prod(inputs: Tensor, packed_info: Tensor) -> Tensor:
    """Return y_i = product of x_j over j < i of the same segment: 1 at its first entry. See `inclusive_prod`."""
    if inputs.is_cuda:
        return nerfacc.exclusive_prod(inputs, packed_info)
    from_start = _places(packed_info, len(inputs))[0]
    return _after_first(_scan(inputs, from_start, torch.mul), from_start, 1.0)


def _places(packed_info: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return how far each of n entries is from its segment's first entry, and from its last: two (n,) int64."""
    starts, counts = packed_info.unbind(-1)
    place = torch.arange(n, device=packed_info.device)
    from_start = place - torch.repeat_interleave(starts, counts, output_size=n)
    from_end = torch.repeat_interleave(starts + counts - 1, counts, output_size=n) - place
    return from_start, from_end


def _scan(x: Tensor, from_start: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the inclusive scan of packed x (n,) by an associative operation."""
    longest = int(from_start.max()) + 1 if len(x) else 0
    reach = 1
    while reach < longest:
        later = torch.where(from_start[reach:] >= reach, combine(x[reach:], x[:-reach]), x[reach:])
        x = torch.cat([x[:reach], later])
        reach *= 2
    return x


def _after_first(inclusive: Tensor, from_start: Tensor, first: float) -> Tensor:
    """Make a scan exclusive: every entry the one before it, a segment's first entry `first`."""
    before = torch.cat([inclusive.new_full((min(len(inclusive), 1),), first), inclusive[:-1]])
    return torch.where(from_start > 0, before, first)


class _InclusiveSum(torch.autograd.Function):
    """The gradient of a sum from the start is the sum of the gradients from the end."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, from_start: Tensor, from_end: Tensor) -> Tensor:
        ctx.save_for_backward(from_start, from_end)
        return _scan(inputs, from_start, torch.add)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        from_start, from_end = ctx.saved_tensors
        return _InclusiveSum.apply(grads[0].flip(0), from_end.flip(0), from_start.flip(0)).flip(0), None, None
