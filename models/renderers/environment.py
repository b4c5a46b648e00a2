"""What is seen beyond the scene's box: a panorama on a dome around it, or infinitely far away."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RADIUS_RATE = 0.3
"""By how much the logarithm of the dome's radius changes where its parameter does by 1: slower than colours do."""


class Environment(nn.Module):
    """A colour for each place of a dome, interpolated from an equirectangular map, y up, and learned with the field.

    The box around an object that was photographed from all around cannot hold the room behind it; without a panorama
    the field paints the room on fog before the cameras. A room is as far away as it is: the dome's radius is learned
    too, so that views from all around agree about a wall.

    Args:
        height: of the map, in pixels.
        radius: of the dome around the origin to begin with, world units; infinite: it stays so, without parallax.

    Parameters:
        raw: (1, 3, height, 2 height), from the zenith down; its sigmoid is the colour. Grey to begin with.
        raw_radius: (), by which the logarithm of the radius has grown, in `RADIUS_RATE`; only if it is finite.
    """

    def __init__(self, height: int, radius: float = math.inf) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(1, 3, height, 2 * height))
        self.radius = radius
        self.raw_radius = nn.Parameter(torch.zeros(())) if math.isfinite(radius) else None

    def forward(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Return colours (n, 3) in (0, 1) where rays end, of origins and unit directions (n, 3).

        Differentiable in the parameters. A ray that passes by the dome ends where it comes nearest to it.
        """
        x, y, z = self._ends(origins, directions).unbind(-1)
        height, width = self.raw.shape[-2:]
        # In [0, width]: the map's edges meet behind, at +z.
        u = (torch.atan2(x, -z) / math.pi + 1) / 2 * width
        v = torch.acos(y.clamp(-1, 1)) / math.pi * height
        # One column more on both sides, to interpolate across the edge; grid_sample's -1 and 1 are their far sides.
        where = torch.stack([2 * (u + 1) / (width + 2) - 1, 2 * v / height - 1], dim=-1)
        sampled = F.grid_sample(self._padded(), where[None, None], padding_mode="border", align_corners=False)
        return torch.sigmoid(sampled[0, :, 0].T)

    def roughness(self) -> Tensor:
        """Return the mean squared difference of neighbours in the map. Minimised, it colours what no view saw."""
        padded = self._padded()
        return padded.diff(dim=-1).square().mean() + padded.diff(dim=-2).square().mean()

    def _padded(self) -> Tensor:
        return F.pad(self.raw, (1, 1, 0, 0), mode="circular")

    def _ends(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Where rays meet the dome, seen from its middle: unit vectors (n, 3)."""
        if self.raw_radius is None:
            return directions
        radius = self.radius * (RADIUS_RATE * self.raw_radius).exp()
        nearest = -(origins * directions).sum(-1)  # along the rays, to the middle
        aside = (origins + nearest[:, None] * directions).square().sum(-1)
        t = nearest + (radius.square() - aside).clamp(min=1e-12).sqrt()
        return F.normalize(origins + t[:, None] * directions, dim=-1)
