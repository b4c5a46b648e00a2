"""Metrics: fidelity, perceptual distance, agreement with captions, what changed where, and geometry."""

from __future__ import annotations

from ids3d.metrics.change import changed_region_iou, directional_similarity, edit_strength
from ids3d.metrics.clip_score import ClipScore
from ids3d.metrics.geometry import depth_error, view_consistency
from ids3d.metrics.lpips import ClipLpips, Lpips, PackagedLpips
from ids3d.metrics.psnr import mean_of_finite, psnr
from ids3d.metrics.ssim import ssim

__all__ = [
    "ClipLpips",
    "ClipScore",
    "Lpips",
    "PackagedLpips",
    "changed_region_iou",
    "depth_error",
    "directional_similarity",
    "edit_strength",
    "mean_of_finite",
    "psnr",
    "ssim",
    "view_consistency",
]
