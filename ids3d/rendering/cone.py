"""Ray marching with steps that grow with the distance, for scenes far larger than their near part.

nerfacc's rule: the step at distance t is max(step_size, cone_angle * t), and through an empty cell it stays what it was
on entering the cell. Where samples lie thus depends on the cells before them, so the cells are walked in order: all
rays in lockstep, one cell or one sample of each at a time. That is several times slower than marching with equal steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ids3d.rendering.boxes import INF, Segments
from ids3d.rendering.samples import Samples, packed

EPS = 1e-6  # nerfacc's: how far behind a piece's start its first cell is looked up


@torch.no_grad()
def march_cone(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    pieces: Segments,
    step_size: float,
    cone_angle: float,
) -> Samples:
    """Place samples along rays with growing steps; arguments as for `ids3d.rendering.march.march`."""
    walk = _Walk(rays_o, rays_d, binaries, aabbs, pieces)
    rays = torch.arange(len(rays_o), device=rays_o.device)
    t = near_planes.clone()
    # Whether the last thing that a ray did was to take a sample.
    connected = torch.zeros_like(rays, dtype=torch.bool)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    while True:
        entered = walk.enter()
        if not bool(walk.walking.any() | (walk.piece < pieces.valid.shape[1]).any()):
            break
        step = (t * cone_angle).clamp(min=step_size)
        starts = walk.of_piece(pieces.starts)
        t = torch.where(entered & ~connected, _stepped(t, step, starts), t)

        step = (t * cone_angle).clamp(min=step_size)
        exits = walk.exits()
        occupied = walk.occupied()
        take = walk.walking & occupied & (t + step / 2 < exits)
        found.append((rays[take], t[take], (t + step)[take]))
        skip = walk.walking & ~occupied
        t = torch.where(take, t + step, torch.where(skip, _stepped(t, step, exits), t))
        connected = (connected | take) & ~skip
        walk.advance(walk.walking & ~take)
    ray_indices, t_starts, t_ends = (torch.cat(parts) for parts in zip(*found, strict=True))
    ray_indices, order = torch.sort(ray_indices, stable=True)
    return packed(t_starts[order], t_ends[order], ray_indices, len(rays_o))


def _stepped(t: Tensor, step: Tensor, target: Tensor) -> Tensor:
    """Return t after as many equal steps as bring the middle of the next one to the target or behind it."""
    return t + ((target - t) / step - 0.5).ceil().clamp(min=0) * step


class _Walk:
    """Where each ray is: in which piece, in which cell of that piece's grid (Amanatides & Woo 1987)."""

    def __init__(
        self, rays_o: Tensor, rays_d: Tensor, binaries: Tensor, aabbs: Tensor, pieces: Segments
    ) -> None:
        self.rays_o, self.rays_d, self.binaries, self.pieces = rays_o, rays_d, binaries, pieces
        self.resolution = torch.tensor(binaries.shape[1:], device=rays_o.device)
        self.lower, self.size = aabbs[:, :3], (aabbs[:, 3:] - aabbs[:, :3]) / self.resolution
        self.piece = torch.full((len(rays_o),), -1, device=rays_o.device)
        self.walking = torch.zeros_like(self.piece, dtype=torch.bool)
        self.level = torch.zeros_like(self.piece)
        self.cell = torch.zeros_like(rays_o, dtype=torch.int64)

    def of_piece(self, values: Tensor) -> Tensor:
        """Return each ray's value (n_rays,) for the piece that it is in, of values (n_rays, s)."""
        return values.gather(1, self.piece.clamp(max=values.shape[1] - 1)[:, None])[:, 0]

    def enter(self) -> Tensor:
        """Take the rays that walk nowhere to their next piece, and return which of them begin to walk it, (n_rays,)."""
        self.piece = self.piece + (~self.walking).long()
        pending = ~self.walking & (self.piece < self.pieces.valid.shape[1])
        entered = pending & self.of_piece(self.pieces.valid)
        self.level = self.of_piece(self.pieces.levels)
        start = self.rays_o + self.rays_d * (self.of_piece(self.pieces.starts) + EPS)[:, None]
        cell = ((start - self.lower[self.level]) / self.size[self.level]).nan_to_num(0, 0, 0).long()
        cell = torch.minimum(cell.clamp(min=0), self.resolution - 1)
        self.cell = torch.where(entered[:, None], cell, self.cell)
        self.walking = self.walking | entered
        return entered

    def _faces(self) -> Tensor:
        """Return the distances (n_rays, 3) at which each axis' next face is crossed."""
        face = self.lower[self.level] + (self.cell + (self.rays_d > 0)) * self.size[self.level]
        return torch.where(self.rays_d == 0, INF, (face - self.rays_o) / self.rays_d)

    def exits(self) -> Tensor:
        """Return the distances (n_rays,) at which the cells end, or the pieces if they do so before."""
        return torch.minimum(self._faces().amin(1), self.of_piece(self.pieces.ends))

    def occupied(self) -> Tensor:
        """Tell whether the rays' cells are occupied, (n_rays,) bool."""
        return self.binaries[(self.level, *self.cell.unbind(1))]

    def advance(self, mask: Tensor) -> None:
        """Take the chosen rays to their next cells; those at the end of their pieces walk no more."""
        faces = self._faces()
        axis = faces.argmin(1, keepdim=True)
        ended = faces.amin(1) >= self.of_piece(self.pieces.ends)
        toward = self.rays_d.sign().long().gather(1, axis)
        cell = self.cell.scatter_add(1, axis, torch.where((mask & ~ended)[:, None], toward, 0))
        inside = ((cell >= 0) & (cell < self.resolution)).all(1)
        self.cell = torch.where(inside[:, None], cell, self.cell)
        self.walking = self.walking & ~(mask & (ended | ~inside))
