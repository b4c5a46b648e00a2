"""What is wrong with cameras and depths that a file gives, said in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ids3d.errors import UserError
from ids3d.lenses import Lens


def check_cameras(path: Path, c2w: Tensor, lenses: Sequence[Lens], columns: str) -> None:
    """Check poses (n, 3, 4) float64 and lenses of n views.

    Args:
        path: the file that they are from.
        columns: what the columns of its matrices are, for the message.

    Raises UserError: a number that is not finite, axes that are no rotation, a size or angle of view that no lens has.
    """
    if len(c2w) < 2:
        raise UserError(f"{path} holds {len(c2w)} views: at least 2 are needed, to train on and to hold out")
    values = torch.tensor(
        [[lens.width, lens.height, lens.fx, lens.fy, lens.cx, lens.cy] for lens in lenses],
        dtype=torch.float64,
    )
    finite = c2w.flatten(1).isfinite().all(dim=-1) & values.isfinite().all(dim=-1)
    complain(path, ~finite, "has a number that is not finite")
    positive = (values[:, :4] > 0).all(dim=-1)
    complain(path, ~positive, "has a height, width or focal length that is not positive")
    inside = (values[:, 4:] > 0).all(dim=-1) & (values[:, 4:] < values[:, :2]).all(dim=-1)
    complain(path, ~inside, "has a principal point outside of its image")
    turned = c2w[:, :, :3].mT @ c2w[:, :, :3] - torch.eye(3, dtype=torch.float64)
    bad = ~(turned.abs().amax(dim=(-2, -1)) <= 1e-3) | ~(torch.linalg.det(c2w[:, :, :3]) > 0)
    complain(path, bad, f"has axes that are no rotation (columns: {columns})")
    tangents = values[:, :2] / (2 * values[:, 2:4])
    extreme = (tangents < 1e-3).any(dim=-1) | (tangents > 1e3).any(dim=-1)
    complain(path, extreme, "has a focal length that gives an angle of view below 0.1 or above 179.9 degrees")


def check_depths(path: Path, c2w: Tensor, bounds: Tensor) -> None:
    """Check nearest and farthest depths (n, 2) float64, and the places of the cameras (n, 3, 4) against them.

    Raises UserError: they are in no order, or so far apart that single precision cannot hold the scene.
    """
    near, far = bounds.unbind(-1)
    complain(path, ~bounds.isfinite().all(dim=-1), "has a depth that is not finite")
    complain(path, (near <= 0) | (far <= near), "has bounds that are not 0 < near < far")
    complain(path, far > 1e9 * near, "has a far bound more than 1e9 times its near one")
    farthest = far.max()
    complain(path, (near < 1e-9) | (far > 1e9), "has bounds below 1e-9 or above 1e9")
    centres = c2w[:, :, 3]
    distance = (centres - centres.median(dim=0).values).norm(dim=-1)
    complain(path, distance > 1e5 * farthest, "stands farther from the others than any of them sees")
    complain(
        path,
        centres.norm(dim=-1) > 1e9 * farthest,
        "stands too far from the origin for its coordinates' digits",
    )


def complain(path: Path, bad: Tensor, what: str) -> None:
    """Raise UserError for the first view that is bad: (n,) bool."""
    if bool(bad.any()):
        raise UserError(f"{path}: view {int(bad.int().argmax())} {what}")
