"""Structural similarity (Wang et al. 2004), over a whole image or over a mask."""

from __future__ import annotations

import math

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

WINDOW = 11  # pixels, the window's side; Gaussian with σ = 1.5, as published


def ssim(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Return the mean of the SSIM map over the pixels, or over those where `mask` is True.

    Args:
        image, truth: (h, w, c) in [0, 1], one shape, sides of at least WINDOW pixels.
        mask: (h, w) bool.

    Returns:
        at most 1; nan where the mask is empty.

    Raises:
        ValueError: the shapes disagree, or a side is shorter than the window.
    """
    if image.shape != truth.shape:
        raise ValueError(f"image {tuple(image.shape)} and truth {tuple(truth.shape)} must have one shape")
    if min(image.shape[:2]) < WINDOW:
        raise ValueError(f"SSIM needs sides of {WINDOW} pixels or more, not {tuple(image.shape[:2])}")
    if mask is not None and mask.shape != image.shape[:2]:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit an image {tuple(image.shape)}")
    a, b = (x.permute(2, 0, 1)[None].double() for x in (image, truth))
    result = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
    assert isinstance(result, tuple)
    similarity = result[1][0].mean(0)
    if mask is None:
        # As published, without the border where the window reaches over the image's edge.
        border = WINDOW // 2
        return float(similarity[border:-border, border:-border].mean())
    return float(similarity[mask].mean()) if bool(mask.any()) else math.nan
