"""Figures of merit: fidelity (PSNR, whole and masked) and agreement with a caption (CLIP score)."""

from __future__ import annotations

from ids3d.metrics.clip_score import ClipScore
from ids3d.metrics.psnr import mean_of_finite, psnr

__all__ = ["ClipScore", "mean_of_finite", "psnr"]
