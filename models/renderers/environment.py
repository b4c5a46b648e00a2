"""What is seen beyond the scene's box: a panorama infinitely far away."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Environment(nn.Module):
    """A colour for each direction, interpolated from an equirectangular map, y up, and learned with the field.

    The box around an object that was photographed from all around cannot hold the room behind it; without a panorama
    the field paints the room on fog before the cameras. What is infinitely far has no parallax, so a room is blurred.

    Parameters:
        raw: (1, 3, height, 2 height), from the zenith down; its sigmoid is the colour. Grey to begin with.
    """

    def __init__(self, height: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(1, 3, height, 2 * height))

    def forward(self, directions: Tensor) -> Tensor:
        """Return colours (n, 3) in (0, 1) in unit directions (n, 3); differentiable in the map."""
        x, y, z = directions.unbind(-1)
        height, width = self.raw.shape[-2:]
        # In [0, width]: the map's edges meet behind, at +z.
        u = (torch.atan2(x, -z) / math.pi + 1) / 2 * width
        v = torch.acos(y.clamp(-1, 1)) / math.pi * height
        # One column more on both sides, to interpolate across the edge; grid_sample's -1 and 1 are their far sides.
        padded = F.pad(self.raw, (1, 1, 0, 0), mode="circular")
        where = torch.stack([2 * (u + 1) / (width + 2) - 1, 2 * v / height - 1], dim=-1)
        sampled = F.grid_sample(padded, where[None, None], padding_mode="border", align_corners=False)
        return torch.sigmoid(sampled[0, :, 0].T)
