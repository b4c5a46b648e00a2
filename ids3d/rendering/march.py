"""Ray marching through occupancy grids: where the samples of a ray go.

On CUDA nerfacc's kernels (`nerfacc/cuda/csrc/grid.cu`, version 0.5.3); elsewhere PyTorch with the same results up to
rounding. Both follow nerfacc's rules:

* A ray steps from its near plane, wherever the boxes begin: sample k covers [t_k, t_{k+1}], with t_0 the near plane
  and t_{k+1} = t_k + step_size.
* A sample is kept if its midpoint lies in an occupied cell, before the far plane. Its end may thus lie up to half a
  step behind the far plane or the box.
* Of several nested boxes the innermost one that holds the midpoint decides.
* With a cone angle, steps grow with the distance; see `ids3d.rendering.cone`.
"""

from __future__ import annotations

import nerfacc
import torch
from torch import Tensor

from ids3d.rendering.boxes import INF, Segments, clip_rays
from ids3d.rendering.cone import march_cone
from ids3d.rendering.samples import Samples, packed


@torch.no_grad()
def march(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
    cone_angle: float = 0.0,
) -> Samples:
    """Place samples along rays, within the occupied cells of grids.

    Args:
        rays_o, rays_d: (n_rays, 3), directions of unit length.
        binaries: (m, x, y, z) bool, the occupied cells of m grids.
        aabbs: (m, 6) their boxes, lower corner then upper corner.
        near_planes: (n_rays,) finite distances at which the rays begin.
        far_planes: (n_rays,) distances at which they end; inf is allowed.
        step_size: world units, > 0.
        cone_angle: >= 0; the step at distance t is max(step_size, cone_angle * t).

    Returns:
        Samples, possibly none. Not differentiable.

    Raises:
        ValueError: step_size is not positive, or cone_angle is negative.
    """
    if not (step_size > 0 and cone_angle >= 0):
        raise ValueError(f"a step size of {step_size} and a cone angle of {cone_angle}")
    if len(rays_o) == 0:
        nothing = rays_o.new_zeros(0)
        return Samples(nothing, nothing, nothing.long(), nothing.long().view(0, 2))
    if rays_o.is_cuda:
        return _march_nerfacc(rays_o, rays_d, binaries, aabbs, near_planes, far_planes, step_size, cone_angle)
    pieces = clip_rays(rays_o, rays_d, aabbs, near_planes, far_planes)
    if cone_angle > 0:
        return march_cone(rays_o, rays_d, binaries, aabbs, near_planes, pieces, step_size, cone_angle)
    return _march_lattice(rays_o, rays_d, binaries, aabbs, near_planes, pieces, step_size)


def _march_nerfacc(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
    cone_angle: float,
) -> Samples:
    intervals, samples, _ = nerfacc.traverse_grids(
        rays_o, rays_d, binaries, aabbs, near_planes, far_planes, step_size, cone_angle
    )
    t_starts, t_ends = intervals.vals[intervals.is_left], intervals.vals[intervals.is_right]
    return Samples(t_starts, t_ends, samples.ray_indices, samples.packed_info)


def _march_lattice(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    pieces: Segments,
    step_size: float,
) -> Samples:
    """March with equal steps: look up every midpoint between the boxes' first entry and last exit, all rays at once."""
    first = (torch.where(pieces.valid, pieces.starts, INF).amin(1) - near_planes) / step_size - 0.5
    end = (torch.where(pieces.valid, pieces.ends, -INF).amax(1) - near_planes) / step_size - 0.5
    inside = pieces.valid.any(1)
    first = torch.where(inside, first.ceil().clamp(min=0), 0.0)
    counts = torch.where(inside, end.ceil() - first, 0.0)
    place = torch.arange(int(counts.max().clamp(min=0)), device=rays_o.device)
    midpoints = near_planes[:, None] + (first[:, None] + place + 0.5) * step_size
    kept = place < counts[:, None]
    if len(aabbs) == 1:
        kept = kept & _occupied(rays_o, rays_d, midpoints, binaries[0], aabbs[0])
    else:
        piece = torch.searchsorted(pieces.edges, midpoints, right=True).sub_(1)
        piece.clamp_(0, pieces.levels.shape[1] - 1)
        kept = kept & pieces.valid.gather(1, piece)
        level = pieces.levels.gather(1, piece)
        hit = torch.zeros_like(kept)
        for i, (binary, aabb) in enumerate(zip(binaries, aabbs, strict=True)):
            hit |= (level == i) & _occupied(rays_o, rays_d, midpoints, binary, aabb)
        kept = kept & hit
    ray_indices, place = kept.nonzero().unbind(1)
    t_starts = near_planes[ray_indices] + (first[ray_indices] + place) * step_size
    t_ends = near_planes[ray_indices] + (first[ray_indices] + place + 1) * step_size
    return packed(t_starts, t_ends, ray_indices, len(rays_o))


def _occupied(rays_o: Tensor, rays_d: Tensor, t: Tensor, binary: Tensor, aabb: Tensor) -> Tensor:
    """Tell whether points at distances t (n_rays, k) are in occupied cells; outside, the nearest cells count."""
    resolution = torch.tensor(binary.shape, device=rays_o.device)
    scale = resolution / (aabb[3:] - aabb[:3])
    origin, direction = (rays_o - aabb[:3]) * scale, rays_d * scale
    cell = torch.zeros_like(t, dtype=torch.int32)
    for axis, size in enumerate(binary.shape):
        index = torch.addcmul(origin[:, axis, None], direction[:, axis, None], t).clamp_(0, size - 1)
        cell.mul_(size).add_(index.int())
    return binary.flatten().index_select(0, cell.view(-1)).view(t.shape)
