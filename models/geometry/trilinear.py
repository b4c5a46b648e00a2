"""Trilinear interpolation of voxel grids, by the fastest way on the device.

On CUDA that is `grid_sample`. On a CPU that uses one thread for a batch of one, and its backward pass is slow; there
they are loops over the points (`benchmarks/interpolation.py` compares the ways).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ids3d.rendering import loops
from ids3d.rendering.loops import in_parts


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
        self._positions = positions.detach().contiguous()

    def of_resolution(self, resolution: tuple[int, int, int]) -> Trilinear:
        """Return the interpolation at the same points of tables of another resolution."""
        return Trilinear(self._positions, resolution)

    def __call__(self, table: Tensor) -> Tensor:
        """Interpolate: (n, channels) from a table (x * y * z, channels), differentiable in the table."""
        if not table.is_cuda:
            return _Interpolated.apply(table, self._positions, self.resolution)
        volume = table.view(1, *self.resolution, -1).permute(0, 4, 1, 2, 3)
        coordinates = (self._positions.flip(-1) * 2 - 1).view(1, 1, 1, -1, 3)
        return F.grid_sample(volume, coordinates, padding_mode="border", align_corners=True)[0, :, 0, 0].T


class _Interpolated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, positions: Tensor, resolution: tuple[int, int, int]) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.resolution = resolution
        values = table.new_empty(len(positions), table.shape[1])
        arrays = table.detach().contiguous().numpy(), positions.numpy(), resolution
        in_parts(lambda a, b: loops.interpolate(*arrays, a, b, values.numpy()), len(positions))
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (positions,), grad = ctx.saved_tensors, grads[0].contiguous()
        # A thread writes to planes of its own, in the order of the points: the same to the bit however many there are.
        table_grad = grad.new_zeros(math.prod(ctx.resolution), grad.shape[1])
        arrays = grad.numpy(), positions.numpy(), ctx.resolution
        parts = torch.get_num_threads() if len(positions) >= 4096 else 1
        in_parts(lambda part, _: loops.spread(*arrays, part, parts, table_grad.numpy()), parts, least=1)
        return table_grad, None, None
