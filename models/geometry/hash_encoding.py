"""A hash grid of several resolutions (Instant-NGP: Müller, Evans, Schied & Keller 2022), by the device's fastest way.

On CUDA that is tiny-cuda-nn, and PyTorch where it is not installed; on a CPU loops over the points. All read one table,
laid out as tiny-cuda-nn has it, so that a field that was fitted with one is read by the others.
"""

from __future__ import annotations

import importlib
import logging
import math
from dataclasses import dataclass
from functools import cache
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ids3d.models.geometry import hash_loops as loops
from ids3d.rendering.loops import in_parts

log = logging.getLogger(__name__)

PRIMES = (1, 2_654_435_761, 805_459_861)
"""Factors of the hash (equation 4), one an axis."""

COARSEST = 16
"""About how many nodes there are along a side of the coarsest level."""

CORNERS = torch.tensor(list(product((0, 1), repeat=3)))
"""Of a cell, (8, 3)."""


@dataclass(frozen=True)
class Levels:
    """The levels of a hash grid: each has twice as many nodes along a side as the one before it.

    Attributes:
        base: nodes along a side of the first.
        count: how many levels there are.
        features: numbers at each node.
        log2_size: the logarithm of how many nodes a level holds at most; where it has more, they share by a hash.
    """

    base: int
    count: int
    features: int
    log2_size: int

    @classmethod
    def up_to(cls, finest: int, features: int, log2_size: int) -> Levels:
        """Levels of which the last has `finest` nodes along a side, or a few more."""
        count = max(1, 1 + round(math.log2(max(finest, 2) / COARSEST)))
        return cls(math.ceil(finest / 2 ** (count - 1)), count, features, log2_size)

    def sides(self) -> list[int]:
        """Nodes along a side of each level."""
        return [self.base * 2**level for level in range(self.count)]

    def sizes(self) -> list[int]:
        """Nodes that each level holds: all, rounded up to a multiple of 8, or as many as share."""
        return [min(math.ceil(side**3 / 8) * 8, 2**self.log2_size) for side in self.sides()]

    def config(self) -> dict[str, Any]:
        """The same for tiny-cuda-nn."""
        return {
            "otype": "HashGrid",
            "n_levels": self.count,
            "n_features_per_level": self.features,
            "log2_hashmap_size": self.log2_size,
            "base_resolution": self.base,
            "per_level_scale": 2.0,
        }


class HashEncoding(nn.Module):
    """Features of points, interpolated between the nodes of each level.

    Node i of a level with s nodes along a side lies at (i - 1/2) / (s - 1) of the unit cube.

    Args:
        levels: of the grid.

    Parameters:
        table: (nodes of all levels * features,), a node's features next to each other.
    """

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        self.levels = levels
        self.table = nn.Parameter(torch.zeros(sum(levels.sizes()) * levels.features))

    @property
    def width(self) -> int:
        """How many features a point has."""
        return self.levels.count * self.levels.features

    def by_level(self) -> list[Tensor]:
        """The table's parts (nodes, features)."""
        rows = self.table.view(-1, self.levels.features)
        return list(rows.split(self.levels.sizes()))

    def forward(self, positions: Tensor) -> Tensor:
        """Return (n, width) for positions (n, 3) in [0, 1], differentiable in the table alone."""
        if not positions.is_cuda:
            return _Encoded.apply(self.table, positions.detach().contiguous(), self.levels)
        native = _tiny_cuda_nn(self.levels)
        if native is None:
            return self.by_pytorch(positions)
        return functional_call(native, {"params": self.table}, (positions.detach(),))

    def by_pytorch(self, positions: Tensor) -> Tensor:
        """The same in PyTorch's own operations."""
        return torch.cat(
            [
                F.embedding_bag(index, table, per_sample_weights=weight, mode="sum")
                for table, (index, weight) in zip(self.by_level(), self.corners(positions), strict=True)
            ],
            dim=-1,
        )

    @torch.no_grad()
    def corners(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each level: the rows (n, 8) of its table that surround the positions, and their weights (n, 8)."""
        found = []
        corners = CORNERS.to(positions.device)
        primes = torch.tensor(PRIMES, device=positions.device)
        for side, size in zip(self.levels.sides(), self.levels.sizes(), strict=True):
            at = positions * (side - 1) + 0.5
            lowest = at.floor()
            share = (at - lowest)[:, None]
            weight = torch.where(corners == 1, share, 1 - share).prod(dim=-1)
            node = lowest.long()[:, None] + corners
            if side**3 <= size:
                row = node[..., 0] + side * (node[..., 1] + side * node[..., 2])
            else:
                x, y, z = (node * primes).unbind(-1)
                row = x ^ y ^ z
            found.append((row % size, weight))
        return found


class _Encoded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, positions: Tensor, levels: Levels) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.levels, ctx.rows = levels, table.numel() // levels.features
        out = table.new_empty(len(positions), levels.count * levels.features)
        rows = table.detach().view(ctx.rows, levels.features).numpy()
        where = positions.numpy(), *_layout(levels)
        in_parts(lambda a, b: loops.encode(rows, *where, a, b, out.numpy()), len(positions))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (positions,), levels, grad = ctx.saved_tensors, ctx.levels, grads[0].contiguous()
        # A thread has levels of its own, and the order of the points: the same to the bit however many there are.
        table_grad = grad.new_zeros(ctx.rows, levels.features)
        where = grad.numpy(), positions.numpy(), *_layout(levels)
        in_parts(lambda a, b: loops.spread(*where, a, b, table_grad.numpy()), levels.count, least=1)
        return table_grad.view(-1), None, None


def _layout(levels: Levels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each level's first row, nodes along a side, and rows."""
    sizes = levels.sizes()
    starts = [sum(sizes[:level]) for level in range(levels.count)]
    return np.array(starts), np.array(levels.sides()), np.array(sizes)


@cache
def _tiny_cuda_nn(levels: Levels) -> nn.Module | None:
    """The encoding by tiny-cuda-nn, whose own parameters are not used; None: it is not installed."""
    library = _library()
    if library is None:
        return None
    module: nn.Module = library.Encoding(3, levels.config(), dtype=torch.float32)
    return module


@cache
def _library() -> ModuleType | None:
    try:
        return importlib.import_module("tinycudann")
    except (ImportError, OSError):  # the latter where it finds no GPU that it was built for
        log.warning(
            "geometry=hash: tinycudann is not installed: PyTorch reads the hash grid, to the same effect"
        )
        return None
