"""Ways of interpolating a voxel grid at random points of rays, forwards and backwards, against each other.

    python benchmarks/interpolation.py --threads 2 --points 40000 --channels 3

The ways take turns, so that whatever else the machine does hits all of them; the figures are medians over the rounds,
and of the ratio to the way that `ids3d.models.geometry.trilinear` uses on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ids3d.models.geometry.trilinear import Trilinear

Way = Callable[[Tensor, Tensor], Tensor]  # (table, positions) -> values
SIDE = 100
RESOLUTION = (SIDE, SIDE, SIDE)
SAMPLES_PER_RAY = 20


def points_on_rays(n: int, generator: torch.Generator) -> Tensor:
    """(about n, 3) in the unit cube: runs of samples two thirds of a voxel apart, as a renderer asks for them."""
    rays = max(n // SAMPLES_PER_RAY, 1)
    origins = torch.rand(rays, 1, 3, generator=generator) * 0.6 + 0.2
    directions = F.normalize(torch.randn(rays, 1, 3, generator=generator), dim=-1)
    t = torch.arange(SAMPLES_PER_RAY)[:, None] / (1.5 * SIDE)
    return (origins + directions * t).clamp(0, 1).reshape(-1, 3)


def chosen(table: Tensor, positions: Tensor) -> Tensor:
    return Trilinear(positions, RESOLUTION)(table)


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


def grid_sample(batch: int) -> Way:
    """The points in `batch` parts, each an item of the batch: PyTorch runs one thread per item."""

    def way(table: Tensor, positions: Tensor) -> Tensor:
        volume = table.view(1, *RESOLUTION, -1).permute(0, 4, 1, 2, 3).expand(batch, -1, -1, -1, -1)
        at = (positions.flip(-1) * 2 - 1).view(batch, 1, 1, -1, 3)
        return (
            F.grid_sample(volume, at, align_corners=True).permute(0, 2, 3, 4, 1).reshape(len(positions), -1)
        )

    return way


def embedding_bag(table: Tensor, positions: Tensor) -> Tensor:
    rows, weights = corners(positions, RESOLUTION)
    return F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")


def gather(table: Tensor, positions: Tensor) -> Tensor:
    rows, weights = corners(positions, RESOLUTION)
    return (table[rows] * weights[..., None]).sum(1)


def milliseconds(
    way: Way, table: Tensor, positions: Tensor, grad: Tensor, clock: Callable[[], float]
) -> tuple[float, float]:
    """Forward, backward."""
    table.grad = None
    start = clock()
    values = way(table, positions)
    middle = clock()
    values.backward(grad)
    return (middle - start) * 1e3, (clock() - middle) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--points", type=int, default=40_000)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="torch.compile too (needs a C++ compiler)")
    parser.add_argument("--cpu-time", action="store_true", help="for one thread on a machine that is busy")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter

    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    positions = points_on_rays(args.points, generator)
    table = torch.randn(SIDE**3, args.channels, generator=generator).requires_grad_()
    grad = torch.randn(len(positions), args.channels, generator=generator)
    ways: dict[str, Way] = {
        "loops (chosen)": chosen,
        "embedding_bag": embedding_bag,
        "gather and weighted sum": gather,
        "grid_sample, batch of 1": grid_sample(1),
        "grid_sample, batch of 2": grid_sample(2),
    }
    if args.compile:
        ways["gather and weighted sum, torch.compile"] = torch.compile(gather)
    for way in ways.values():
        torch.testing.assert_close(way(table, positions), chosen(table, positions), rtol=1e-3, atol=1e-4)
        milliseconds(way, table, positions, grad, clock)
    times = [
        {name: milliseconds(way, table, positions, grad, clock) for name, way in ways.items()}
        for _ in range(args.rounds)
    ]
    print(f"{len(positions)} points, {args.channels} channels, {SIDE}^3 nodes, {args.threads} threads")
    print(f"{'':42}{'forward':>10}{'backward':>10}{'both':>10}{'ratio':>8}")
    reference = next(iter(ways))
    for name in ways:
        forward = statistics.median(row[name][0] for row in times)
        backward = statistics.median(row[name][1] for row in times)
        both = statistics.median(sum(row[name]) for row in times)
        ratio = statistics.median(sum(row[name]) / sum(row[reference]) for row in times)
        print(f"{name:42}{forward:7.1f} ms{backward:7.1f} ms{both:7.1f} ms{ratio:8.2f}")


if __name__ == "__main__":
    main()
