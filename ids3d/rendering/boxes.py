"""Rays and axis-aligned boxes: intersection and clipping."""

from __future__ import annotations

from dataclasses import dataclass

import nerfacc
import torch
from torch import Tensor

INF = float("inf")


@torch.no_grad()
def ray_aabb_intersect(
    rays_o: Tensor,
    rays_d: Tensor,
    aabbs: Tensor,
    near_plane: float = -INF,
    far_plane: float = INF,
    miss_value: float = INF,
) -> tuple[Tensor, Tensor, Tensor]:
    """Intersect rays with boxes. On CUDA nerfacc's kernel.

    A box is hit where the ray's line meets it (a corner suffices) and it is not wholly behind the origin. The near and
    far planes clip the distances; they do not decide about the hit. A ray within a face counts as inside (nerfacc
    leaves that case to chance).

    Args:
        rays_o, rays_d: (n_rays, 3).
        aabbs: (m, 6), lower corner then upper corner.
        miss_value: stands for both distances where the box is missed.

    Returns:
        t_mins (n_rays, m), t_maxs (n_rays, m), in units of the directions' length, and hits (n_rays, m) bool.
        Not differentiable.

    Example:
        >>> origins, directions = torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> ray_aabb_intersect(origins, directions, torch.tensor([[2.0, -1.0, -1.0, 4.0, 1.0, 1.0]]))
        (tensor([[2.],
                [inf]]), tensor([[4.],
                [inf]]), tensor([[ True],
                [False]]))
    """
    if rays_o.is_cuda:
        return nerfacc.ray_aabb_intersect(rays_o, rays_d, aabbs, near_plane, far_plane, miss_value)
    inverse = 1 / rays_d[:, None]
    t_lower = (aabbs[None, :, :3] - rays_o[:, None]) * inverse
    t_upper = (aabbs[None, :, 3:] - rays_o[:, None]) * inverse
    # 0 * inf: parallel to the face and within it, which bounds nothing.
    t_mins = torch.minimum(t_lower, t_upper).nan_to_num(-INF, INF, -INF).amax(-1)
    t_maxs = torch.maximum(t_lower, t_upper).nan_to_num(INF, INF, -INF).amin(-1)
    hits = (t_mins <= t_maxs) & (t_maxs > 0)
    t_mins = torch.where(hits, t_mins.clamp(min=near_plane), miss_value)
    t_maxs = torch.where(hits, t_maxs.clamp(max=far_plane), miss_value)
    return t_mins, t_maxs, hits


@dataclass(frozen=True)
class Segments:
    """Rays clipped to m boxes, each cut at their faces into s = 2m - 1 pieces.

    Attributes:
        edges: (n_rays, s + 1) distances of the cuts, ascending; inf for a box that the ray misses.
        starts, ends: (n_rays, s) the pieces, clipped to the near and far planes.
        levels: (n_rays, s) int64, which box the piece belongs to: of nested ones the innermost.
        valid: (n_rays, s) bool, whether the piece is inside of a box and not empty.
    """

    edges: Tensor
    starts: Tensor
    ends: Tensor
    levels: Tensor
    valid: Tensor


def clip_rays(
    rays_o: Tensor, rays_d: Tensor, aabbs: Tensor, near_planes: Tensor, far_planes: Tensor
) -> Segments:
    """Clip rays to boxes: their pieces within the boxes, in the order of nerfacc's traversal.

    A cut at which a box is entered begins a piece of that box; one at which a box is left begins a piece of the box
    that is left next, and nothing at all if another one is entered next. For nested boxes that is the innermost box.

    Args:
        rays_o, rays_d: (n_rays, 3).
        aabbs: (m, 6).
        near_planes, far_planes: (n_rays,).
    """
    m = len(aabbs)
    t_mins, t_maxs, hits = ray_aabb_intersect(rays_o, rays_d, aabbs)
    edges, order = torch.sort(torch.cat([t_mins, t_maxs], dim=-1), dim=-1, stable=True)
    entering, box = order < m, order % m
    levels = torch.where(entering[:, :-1], box[:, :-1], box[:, 1:])
    valid = (entering[:, :-1] | ~entering[:, 1:]) & hits.gather(1, box[:, :-1]) & hits.gather(1, levels)
    starts = torch.maximum(edges[:, :-1], near_planes[:, None])
    ends = torch.minimum(edges[:, 1:], far_planes[:, None])
    return Segments(edges, starts, ends, levels, valid & (starts < ends))
