"""Peak signal-to-noise ratio of images in [0, 1], over all pixels or over a mask."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio


def psnr(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Return 10 log10(1 / mean squared error), in dB.

    Args:
        image, truth: (h, w, c) in [0, 1]; of one shape, on one device.
        mask: (h, w) bool; only pixels where it is True count. None = all.

    Returns:
        dB; inf for equal images, nan where the mask is empty (nothing to measure: `mean_of_finite` leaves such
        views out).

    Raises:
        ValueError: the shapes disagree.

    Example:
        >>> import torch
        >>> round(psnr(torch.full((4, 4, 3), 0.6), torch.full((4, 4, 3), 0.5)), 3)
        20.0
    """
    if image.shape != truth.shape:
        raise ValueError(f"image {tuple(image.shape)} and truth {tuple(truth.shape)} must have one shape")
    if mask is None:
        return float(peak_signal_noise_ratio(image, truth, data_range=1.0))
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit an image {tuple(image.shape)}")
    if not bool(mask.any()):
        return math.nan
    return float(peak_signal_noise_ratio(image[mask], truth[mask], data_range=1.0))


def mean_of_finite(values: Iterable[float]) -> float:
    """Return the mean of the finite ones among the values, nan when there is none."""
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan
