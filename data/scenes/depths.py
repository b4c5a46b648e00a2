"""From which depth to which depth each view shows something: by a scene's points, or by what its cameras look at.

Depths are along a camera's axis, in the files' units, float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ids3d.cameras import closest_to_axes
from ids3d.data.scenes.framing import Ball
from ids3d.lenses import Lens

FEWEST = 8  # points that say something of a view's depths
FARTHEST_FOCUS = 30.0  # times the cameras' spread: beyond, the axes are all but parallel


def depths_of_points(
    points: Tensor, c2w: Tensor, lenses: Sequence[Lens], seen: Sequence[Tensor] | None = None
) -> Tensor | None:
    """Nearest and farthest depth (n, 2) of n views: the 0.1th and 99.9th percentile of the points that each sees.

    As LLFF's imgs2poses.py has it. A view that sees hardly any takes the median view's.

    Args:
        points: (p, 3) float64.
        c2w: (n, 3, 4).
        lenses: of the views, without distortion.
        seen: of each view, the indices of its points. None: those that lie within its image count.

    Returns: None where no view sees enough points.
    """
    found = []
    for i, (pose, lens) in enumerate(zip(c2w, lenses, strict=True)):
        mine = points if seen is None else points[seen[i]]
        local = (mine - pose[:, 3]) @ pose[:, :3]
        depth = -local[:, 2]
        ahead = depth > 0
        if seen is None:
            across = (local[:, :2].abs() / depth[:, None]) < torch.tensor(lens.tangents, dtype=torch.float64)
            ahead &= across.all(dim=-1)
        depth = depth[ahead]
        depth = depth[depth.isfinite()].sort().values
        few = len(depth) < FEWEST
        found.append([torch.nan] * 2 if few else [_percentile(depth, share) for share in (0.001, 0.999)])
    bounds = torch.tensor(found, dtype=torch.float64)
    known = bounds.isfinite().all(dim=-1)
    if not bool(known.any()):
        return None
    return torch.where(known[:, None], bounds, bounds[known].median(dim=0).values)


def _percentile(ordered: Tensor, share: float) -> float:
    """By linear interpolation, as NumPy's; `torch.quantile` takes no more than 16 million values."""
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return float(torch.lerp(ordered[low], ordered[high], at - low))


def focus_depths(c2w: Tensor) -> Tensor | None:
    """Depth (n,) of the point that all cameras look at; None where they do not look at one."""
    centres, forward = c2w[:, :, 3], -c2w[:, :, 2]
    focus = closest_to_axes(centres, forward)
    depths = ((focus - centres) * forward).sum(dim=-1)
    spread = (centres - centres.mean(dim=0)).norm(dim=-1).max()
    return depths if bool(((depths > 0) & (depths < FARTHEST_FOCUS * spread)).all()) else None


def depths_of_focus(focus: Tensor) -> Tensor:
    """Nearest and farthest depth (n, 2), guessed from that of what the cameras look at, (n,)."""
    return torch.stack([0.2 * focus, 3 * focus], dim=-1)


def object_ball(c2w: Tensor, lenses: Sequence[Lens]) -> tuple[Ball, Tensor] | None:
    """Where an object stands that all cameras show whole, and the depths (n, 2) between which its box lies.

    The ball about the point that the cameras look at, as large as the median view shows there. None where they do not
    look at one point.
    """
    focus = focus_depths(c2w)
    if focus is None:
        return None
    tangents = torch.tensor([max(lens.tangents) for lens in lenses], dtype=torch.float64)
    centre = closest_to_axes(c2w[:, :, 3], -c2w[:, :, 2])
    radius = float((focus * tangents).median())
    corner = 3**0.5 * radius
    bounds = torch.stack([torch.maximum(focus - corner, 0.05 * focus), focus + corner], dim=-1)
    return Ball(centre, radius), bounds
