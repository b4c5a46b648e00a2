"""Geometry: the error of a depth map, and the consistency of views of an edited scene with each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ids3d.cameras import Cameras
from ids3d.metrics.psnr import psnr


def depth_error(depth: Tensor, truth: Tensor, mask: Tensor | None = None) -> tuple[float, float]:
    """Return the mean absolute error, in the depth's units, and the mean error relative to the true depth.

    Args:
        depth, truth: (h, w), distances along the rays; where the true one is not above 0 there is none.
        mask: (h, w) bool; None = everywhere.

    Returns:
        (absolute, relative); nan where there is no true depth.
    """
    if depth.shape != truth.shape or (mask is not None and mask.shape != truth.shape):
        raise ValueError(
            f"depth {tuple(depth.shape)}, truth {tuple(truth.shape)} and mask must have one shape"
        )
    known = truth > 0 if mask is None else mask & (truth > 0)
    if not bool(known.any()):
        return math.nan, math.nan
    error = (depth - truth).abs()[known]
    return float(error.mean()), float((error / truth[known]).mean())


def view_consistency(
    first: tuple[Cameras, Tensor, Tensor],
    second: tuple[Cameras, Tensor, Tensor],
    mask: Tensor | None = None,
    tolerance: float = 0.02,
) -> tuple[float, float]:
    """Measure how well the second view agrees with the first: points that both see should be of one colour.

    The first view's points are placed by its depth and looked up in the second view. A point counts where the second
    view sees that same point: its depth there is within `tolerance` of the point's distance, relative to it.

    Args:
        first, second: one camera, its rgb (h, w, 3) in [0, 1] and its depth (h, w) along the rays; 0 = nothing there.
        mask: (h, w) bool, the pixels of the first view that are asked about; None = all.

    Returns:
        (PSNR in dB over the points that both see, their share of the points asked about); (nan, 0) for none.
    """
    camera, rgb, depth = first
    other, other_rgb, other_depth = second
    rays = camera.rays()
    points = (rays.origins + depth[None, ..., None] * rays.directions)[0]
    local = points - other.c2w[0, :, 3]
    distance = local.norm(dim=-1)
    x, y, back = (local @ other.c2w[0, :, :3]).unbind(-1)
    ahead = (-back).clamp(min=1e-9)
    column, row = other.fx[0] * x / ahead + other.cx[0], -other.fy[0] * y / ahead + other.cy[0]
    inside = (back < 0) & (column >= 0) & (column <= other.width) & (row >= 0) & (row <= other.height)
    where = torch.stack([2 * column / other.width - 1, 2 * row / other.height - 1], dim=-1)[None]
    looked_up = F.grid_sample(
        other_rgb.permute(2, 0, 1)[None], where, align_corners=False, padding_mode="border"
    )
    nearest = F.grid_sample(other_depth[None, None], where, mode="nearest", align_corners=False)[0, 0]
    asked = depth > 0 if mask is None else mask & (depth > 0)
    shared = asked & inside & ((nearest - distance).abs() < tolerance * distance)
    if not bool(shared.any()):
        return math.nan, 0.0
    return psnr(looked_up[0].permute(1, 2, 0), rgb, shared), float(shared.sum() / asked.sum())
