"""Carry a coarse image over to a fine one, so that it changes where the fine one does: the guided filter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def guided_filter(guide: Tensor, values: Tensor, radius: int, eps: float = 1e-3) -> Tensor:
    """Return `values` at the guide's size, as in each window an affine function of the guide's colours.

    What varies in the values but not in the guide is averaged; where the guide has an edge, they get it. The guided
    filter (He, Sun and Tang, TPAMI 2013, eq. 14 to 16) for guides of several channels, whose coefficients are found at
    the values' size (He and Sun, Fast Guided Filter, arXiv 1505.00996).

    Args:
        guide: (n, c, H, W) in [0, 1].
        values: (n, k, h, w).
        radius: of a window, in the values' pixels: it is 2 * radius + 1 wide, less at the border.
        eps: the guide's variance below which a window counts as plain.

    Returns: (n, k, H, W).
    """
    size, (c, k) = values.shape[-2:], (guide.shape[1], values.shape[1])
    small = F.interpolate(guide, size, mode="bilinear", antialias=True)
    mean_guide, mean_values = _window_means(small, radius), _window_means(values, radius)

    def covariance(other: Tensor, mean_other: Tensor) -> Tensor:
        """Of the guide's channels with another image's, (n, h, w, c, channels)."""
        product = _window_means((small[:, :, None] * other[:, None]).flatten(1, 2), radius)
        product = product.unflatten(1, (c, -1)) - mean_guide[:, :, None] * mean_other[:, None]
        return product.permute(0, 3, 4, 1, 2)

    own = covariance(small, mean_guide) + eps * torch.eye(c, device=guide.device)
    slope = torch.linalg.solve(own, covariance(values, mean_values)).permute(0, 3, 4, 1, 2)
    offset = mean_values - (slope * mean_guide[:, :, None]).sum(dim=1)
    means = _window_means(torch.cat([slope.flatten(1, 2), offset], dim=1), radius)
    slope, offset = F.interpolate(means, guide.shape[-2:], mode="bilinear").split([c * k, k], dim=1)
    return (slope.unflatten(1, (c, k)) * guide[:, :, None]).sum(dim=1) + offset


def _window_means(image: Tensor, radius: int) -> Tensor:
    """Means over the windows about all pixels of (n, c, h, w), of that part of them which lies in the image."""

    def total(x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.pad(x, (radius,) * 4), (2 * radius + 1, 1), stride=1)
        return F.avg_pool2d(x, (1, 2 * radius + 1), stride=1)

    return total(image) / total(torch.ones_like(image[:1, :1]))
