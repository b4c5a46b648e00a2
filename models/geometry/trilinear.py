"""Trilinear interpolation of voxel grids, by the fastest way on the device.

On CUDA that is `grid_sample`. On a CPU `grid_sample` uses one thread for a batch of one, and its backward pass is slow
(`benchmarks/interpolation.py` compares the ways). The fastest without a compiler is the weighted sum of the eight
corners by `embedding_bag`, with a backward pass of our own in place of its, which sorts: a flat `scatter_add_`, which
is serial and so the same to the bit in every run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Trilinear:
    """Interpolation at n points, to be applied to several tables of one resolution.

    The nodes of an (x, y, z) grid lie on the faces of the unit cube: node i of x nodes is at i / (x - 1). A table
    (x * y * z, channels) holds their values, z running fastest.

    Args:
        positions: (n, 3) in [0, 1]; others are moved to the nearest face. No gradient goes to them.
        resolution: at least 2 nodes along each side.

    Example:
        >>> import torch
        >>> table = torch.arange(8.0)[:, None]  # the nodes of a 2 x 2 x 2 grid
        >>> Trilinear(torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.5, 0.5]]), (2, 2, 2))(table)
        tensor([[1.0000],
                [3.5000]])
    """

    def __init__(self, positions: Tensor, resolution: tuple[int, int, int]) -> None:
        self.resolution = resolution
        positions = positions.detach().clamp(0, 1)
        self._on_cuda = positions.is_cuda
        if self._on_cuda:
            self._coordinates = (positions.flip(-1) * 2 - 1).view(1, 1, 1, -1, 3)
        else:
            self._corners, self._weights = corners(positions, resolution)

    def __call__(self, table: Tensor) -> Tensor:
        """Interpolate: (n, channels) from a table (x * y * z, channels), differentiable in the table."""
        if not self._on_cuda:
            return _WeightedRows.apply(table, self._corners, self._weights)
        volume = table.view(1, *self.resolution, -1).permute(0, 4, 1, 2, 3)
        return F.grid_sample(volume, self._coordinates, align_corners=True)[0, :, 0, 0].T


def corners(positions: Tensor, resolution: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Find the eight nodes around each position (n, 3) in [0, 1], and their weights.

    Returns:
        Rows (n, 8) int64 into a table of x * y * z rows, and weights (n, 8) that sum to 1.
    """
    x, y, z = resolution
    last = positions.new_tensor([x - 2, y - 2, z - 2])[:, None]  # the lowest node of the last cell
    scaled = positions.T.contiguous() * (last + 1)
    lower = torch.minimum(scaled.floor(), last)
    (i, j, k), (u, v, w), (a, b, c) = lower.long(), scaled - lower, lower + 1 - scaled
    offsets = [0, 1, z, z + 1, y * z, y * z + 1, y * z + z, y * z + z + 1]
    rows = ((i * y + j) * z + k)[:, None] + torch.tensor(offsets, device=positions.device)
    square = (b * c, b * w, v * c, v * w)
    return rows, torch.stack([a * s for s in square] + [u * s for s in square], dim=-1)


class _WeightedRows(torch.autograd.Function):
    """Weighted sums of a table's rows: out_n = sum over k of weights_nk table[rows_nk]."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.shape = table.shape
        return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (rows, weights), grad, channels = ctx.saved_tensors, grads[0], ctx.shape[1]
        # Corner by corner and channel by channel, with the points innermost: long loops, and no inner ones of length 3.
        channel = torch.arange(channels, device=rows.device)[:, None]
        places = rows.T.contiguous()[:, None] * channels + channel
        values = weights.T.contiguous()[:, None] * grad.T.contiguous()
        table_grad = grad.new_zeros(ctx.shape)
        table_grad.view(-1).scatter_add_(0, places.reshape(-1), values.reshape(-1))
        return table_grad, None, None
