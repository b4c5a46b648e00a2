"""Images of a distorting lens as a pinhole camera would have taken them, by resampling."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from ids3d.lenses import Lens, jacobian

NARROWEST, WIDEST = 8.0, 0.5  # focal lengths tried for the pinhole, times that of the lens


@dataclass(frozen=True)
class Undistortion:
    """From a lens's images to those of a pinhole camera at the same place, both of one size.

    Attributes:
        lens: as it is.
        pinhole: the same without distortion, with a focal length for which the lens's image has every pixel.
    """

    lens: Lens
    pinhole: Lens

    @property
    def zoom(self) -> float:
        """How much larger things near the axis become; below 1, smaller."""
        return self.pinhole.fx / self.lens.fx

    def apply(self, pixels: np.ndarray, height: int, width: int, order: int = 3) -> np.ndarray:
        """The pinhole camera's image (height, width, c) float32 of the lens's (h, w, c), by splines of an order."""
        pinhole = self.pinhole.resized(width, height)
        seen = self.lens.resized(pixels.shape[1], pixels.shape[0]).pixels(pinhole.plane(pinhole.grid()))
        cols, rows = (seen - 0.5).numpy().transpose(2, 0, 1)
        channels = pixels.astype(np.float32).transpose(2, 0, 1)
        made = [
            ndimage.map_coordinates(channel, (rows, cols), order=order, mode="nearest")
            for channel in channels
        ]
        return np.stack(made, axis=-1)


def undistortion_of(lens: Lens) -> Undistortion | None:
    """How to undo the distortion of a lens; None where there is none to undo.

    The principal point stays, and so does the ratio of fx to fy. The focal length is the shortest for which no pixel
    of the pinhole's image lies outside of the lens's, or where the distortion folds over; but at least `WIDEST` times
    the lens's, so that a fisheye's middle keeps its resolution.

    Raises ValueError: there is no such focal length.
    """
    if lens.distortion is None:
        return None
    if not _is_whole(lens, NARROWEST):
        raise ValueError("the distortion leaves nothing of the image")
    low, high = WIDEST, NARROWEST
    if _is_whole(lens, low):
        high = low
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if _is_whole(lens, middle) else (middle, high)
    return Undistortion(lens, _pinhole(lens, high))


def _pinhole(lens: Lens, zoom: float) -> Lens:
    return replace(lens, fx=zoom * lens.fx, fy=zoom * lens.fy, distortion=None)


def _is_whole(lens: Lens, zoom: float) -> bool:
    """Whether the lens's image has all of the pinhole's, once each."""
    assert lens.distortion is not None
    x, y = (side * torch.linspace(0, 1, 33, dtype=torch.float64) for side in (lens.width, lens.height))
    corners = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    plane = _pinhole(lens, zoom).plane(corners)
    seen = lens.pixels(plane)
    size = seen.new_tensor([lens.width, lens.height])
    inside = (seen > -1e-6 * size) & (seen < (1 + 1e-6) * size)
    unfolded = torch.linalg.det(jacobian(lens.distortion, plane)) > 0
    return bool(inside.all() and unfolded.all())
