"""Where an object that is cut out can be: within all of its silhouettes (the visual hull, Laurentini 1994)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ids3d.cameras import Cameras, project

CELLS = 96  # along the longest side of the box that is looked through
FAINT = 0.02  # opacity below which a pixel shows nothing


def hull_box(aabb: Tensor, cameras: Cameras, opacity: Tensor) -> Tensor | None:
    """The smallest box (6,) around the cells of a box that no view says to be empty, and one cell more on each side.

    A cell is empty where a view shows nothing in all pixels that it may reach. What lies outside an image is not known.

    Args:
        aabb: (6,) world units, around all that there may be.
        cameras: n, the views'.
        opacity: (n, h, w) of their images.

    Returns: None where no cell is left.
    """
    low, sides = aabb[:3], aabb[3:] - aabb[:3]
    cell = float(sides.max()) / CELLS
    counts = (sides / cell).ceil().long().tolist()
    axes = [low[i] + cell * (torch.arange(count) + 0.5) for i, count in enumerate(counts)]
    possible = torch.cartesian_prod(*axes)
    reach = 3**0.5 / 2 * cell
    for i in range(len(cameras)):
        camera = cameras[i]
        (xy,), (depth,) = project(camera, possible)
        # What is nearer than this covers too many pixels to be told of.
        nearest = (depth.min() - reach).clamp(min=0.1 * depth.abs().max())
        pixels = int((torch.maximum(camera.fx, camera.fy).max() * reach / nearest).ceil())
        shown = F.max_pool2d(opacity[i, None, None], 2 * pixels + 1, stride=1, padding=pixels)[0, 0] > FAINT
        column, row = xy.floor().long().unbind(-1)
        inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
        inside &= depth - reach >= nearest
        at = shown[row.clamp(0, camera.height - 1), column.clamp(0, camera.width - 1)]
        possible = possible[~inside | at]
        if not len(possible):
            return None
    corners = torch.cat([possible.amin(dim=0) - 1.5 * cell, possible.amax(dim=0) + 1.5 * cell])
    return torch.cat([torch.maximum(corners[:3], low), torch.minimum(corners[3:], aabb[3:])])
