"""The occupancy grid: where a field has anything to show, so that samples go there alone (Müller et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ids3d.cameras import Cameras, project
from ids3d.rendering.density_grid import DensityGrid
from ids3d.rendering.march import march, march_seen
from ids3d.rendering.samples import Samples
from ids3d.space import BOX, Space


def cubic_resolution(aabb: Tensor, cells: int) -> tuple[int, int, int]:
    """Return the cells along each side of a box (6,) for about `cells` nearly cubic ones; at least 2 a side.

    Example:
        >>> cubic_resolution(torch.tensor([0.0, 0.0, 0.0, 2.0, 1.0, 1.0]), 2000)
        (20, 10, 10)
    """
    sides = (aabb[3:] - aabb[:3]).double()
    x, y, z = (sides * (cells / sides.prod()) ** (1 / 3)).round().clamp(min=2).int().tolist()
    return x, y, z


class OccupancyGrid(nn.Module):
    """Which cells of nested boxes are occupied, kept up to date with a field that changes.

    The first box is `aabb`; each level doubles the sides of the one before about the same centre. Every cell keeps an
    estimate of its opacity, a maximum that decays; cells above a threshold are occupied. The rules are those of
    nerfacc's `OccGridEstimator`, with three differences: all cells count as occupied until the first update, randomness
    comes from a generator, and a cell that is drawn twice in an update decays once.

    Buffers (a checkpoint carries them): aabbs (m, 6), opacity (m, x, y, z) float32, binaries and possible (m, x, y, z)
    bool; what is not possible is never occupied.
    """

    aabbs: Tensor
    opacity: Tensor
    binaries: Tensor
    possible: Tensor

    def __init__(self, aabb: Tensor, resolution: tuple[int, int, int], levels: int = 1) -> None:
        super().__init__()
        centre, half = (aabb[:3] + aabb[3:]) / 2, (aabb[3:] - aabb[:3]) / 2
        boxes = [torch.cat([centre - half * 2**i, centre + half * 2**i]) for i in range(levels)]
        self.register_buffer("aabbs", torch.stack(boxes))
        self.register_buffer("opacity", torch.zeros(levels, *resolution))
        self.register_buffer("binaries", torch.ones(levels, *resolution, dtype=torch.bool))
        self.register_buffer("possible", self.binaries.clone())

    @torch.no_grad()
    def carve(self, cameras: Cameras, near: Tensor, space: Space = BOX) -> None:
        """Mark as empty for good what lies before a camera where there is known to be nothing.

        As in nerfacc's `mark_invisible_cells`, but by what each view says of itself: fog that one camera has before it
        explains its image as well as surfaces do, and stands in all others. What no camera sees may be anything.

        Args:
            cameras: n, the training views'.
            near: (n,) depth along each camera's axis before which its image shows nothing, world units.
            space: whose coordinates the boxes are in.
        """
        for level, box in enumerate(self.aabbs):
            sizes = self.possible.shape[1:]
            axes = [
                box[i] + (torch.arange(count, device=box.device) + 0.5) / count * (box[3 + i] - box[i])
                for i, count in enumerate(sizes)
            ]
            centres = torch.cartesian_prod(*axes)
            diagonal = (box[3:] - box[:3]) / torch.tensor(sizes, device=box.device) / 2
            corners = space.points(centres + diagonal), space.points(centres - diagonal)
            half = (corners[0] - corners[1]).norm(dim=-1) / 2
            centres = space.points(centres)
            empty = torch.zeros(len(centres), dtype=torch.bool, device=box.device)
            for i in range(len(cameras)):
                (xy,), (depth,) = project(cameras[i], centres)
                within = (xy >= 0) & (xy <= xy.new_tensor([cameras.width, cameras.height]))
                empty |= within.all(-1) & (depth > 0) & (depth + half < near[i])
            self.possible[level] = ~empty.view(sizes)
        self.binaries &= self.possible

    def march(
        self,
        rays_o: Tensor,
        rays_d: Tensor,
        near_planes: Tensor,
        far_planes: Tensor,
        step_size: float,
        cone_angle: float = 0.0,
    ) -> Samples:
        """Place samples along rays, within the occupied cells; see `ids3d.rendering.march.march`."""
        return march(
            rays_o, rays_d, self.binaries, self.aabbs, near_planes, far_planes, step_size, cone_angle
        )

    def march_seen(
        self,
        rays_o: Tensor,
        rays_d: Tensor,
        near_planes: Tensor,
        far_planes: Tensor,
        step_size: float,
        density: DensityGrid,
        early_stop_eps: float,
        alpha_threshold: float,
    ) -> Samples:
        """Place samples where they can be seen, on a CPU; see `ids3d.rendering.march.march_seen`."""
        where = rays_o, rays_d, self.binaries, self.aabbs, near_planes, far_planes, step_size
        return march_seen(*where, density, early_stop_eps, alpha_threshold)

    def occupied(self, positions: Tensor) -> Tensor:
        """Tell whether positions (n, 3) lie in occupied cells, those of the smallest box around each: (n,) bool."""
        found = torch.zeros(len(positions), dtype=torch.bool, device=positions.device)
        size = torch.tensor(self.binaries.shape[1:], device=positions.device)
        for box, cells in zip(self.aabbs.flip(0), self.binaries.flip(0), strict=True):
            unit = (positions - box[:3]) / (box[3:] - box[:3])
            inside = ((unit >= 0) & (unit <= 1)).all(-1)
            x, y, z = torch.minimum((unit[inside] * size).long(), size - 1).unbind(-1)
            found[inside] = cells[x, y, z]
        return found

    @torch.no_grad()
    def update(
        self,
        step: int,
        opacity_of: Callable[[Tensor], Tensor],
        generator: torch.Generator,
        threshold: float = 0.01,
        decay: float = 0.95,
        warmup_steps: int = 256,
    ) -> None:
        """Evaluate the field again, at a random point of each of some cells.

        These are all cells while step < warmup_steps; afterwards as many as a quarter of all cells drawn at random,
        and as many drawn from the occupied ones. A cell's estimate becomes max(decay * estimate, what was found), and
        a possible cell is occupied if its estimate reaches min(threshold, mean of all possible cells' estimates).

        Args:
            step: the training step.
            opacity_of: takes positions (n, 3) in world units to opacities of a step there (n,) >= 0: density times
                step size.
            generator: a CPU generator; on every device the same numbers are drawn.
        """
        for level, box in enumerate(self.aabbs):
            cells = self._all_cells() if step < warmup_steps else self._some_cells(level, generator)
            jitter = torch.rand(len(cells), 3, generator=generator).to(box)
            resolution = torch.tensor(self.opacity.shape[1:], device=box.device)
            corner = torch.stack(torch.unravel_index(cells, self.opacity.shape[1:]), dim=-1)
            positions = box[:3] + (corner + jitter) / resolution * (box[3:] - box[:3])
            estimates = self.opacity[level].view(-1)
            estimates[cells] = torch.maximum(estimates[cells] * decay, opacity_of(positions))
        # A mean of equal estimates may round to above them, and then no cell would be left.
        bar = (self.opacity[self.possible].mean() * (1 - 1e-4)).clamp(max=threshold)
        torch.gt(self.opacity, bar, out=self.binaries)
        self.binaries &= self.possible

    def _all_cells(self) -> Tensor:
        return torch.arange(self.opacity[0].numel(), device=self.opacity.device)

    def _some_cells(self, level: int, generator: torch.Generator) -> Tensor:
        """Return the flat indices of the cells to look at, ascending, each once."""
        total = self.opacity[level].numel()
        n = max(total // 4, 1)
        chosen = torch.zeros(total, dtype=torch.bool, device=self.opacity.device)
        chosen[torch.randint(total, (n,), generator=generator).to(chosen.device)] = True
        occupied = self.binaries[level].view(-1).nonzero()[:, 0]
        if len(occupied) > n:
            occupied = occupied[torch.randint(len(occupied), (n,), generator=generator).to(chosen.device)]
        chosen[occupied] = True
        return chosen.nonzero()[:, 0]
