"""Which frames of a video are worth keeping: sharp ones, evenly spread over what the camera saw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from skimage.registration import optical_flow_ilk, phase_cross_correlation

STEP = 0.03
"""By this share of its longest side a picture should move to the next: about a hundred frames for a way around."""

_FLOW_SIZE = 64  # pixels, longest side: enough to tell 3 % of it, and quick


@dataclass(frozen=True)
class Candidate:
    """A frame that could be kept.

    Attributes:
        index: of the frame in the video, from 0.
        sharpness: see `sharpness`.
        position: how far the picture has moved since the first candidate, in longest sides.
    """

    index: int
    sharpness: float
    position: float


def sharpness(image: np.ndarray) -> float:
    """Return how fine the detail of an image is: squared second over squared first differences, mean of both axes.

    By Parseval it is the mean square frequency of the image's gradients, so that contrast and exposure do not count,
    unlike in the variance of the Laplacian, whose numerator it has. Blur along one axis lowers that axis's share.

    Args:
        image: (h, w) grey values, at least 3x3.

    Returns:
        0 for a plain image, up to 4 for one of noise.
    """
    image = image.astype(np.float32)
    ratios = []
    for axis in (0, 1):
        first = np.diff(image, axis=axis)
        energy = float(np.square(first).mean())
        ratios.append(float(np.square(np.diff(first, axis=axis)).mean()) / energy if energy > 0 else 0.0)
    return sum(ratios) / 2


def movement(before: np.ndarray, after: np.ndarray) -> float:
    """Return how far the picture moved between two small grey images, as a share of the longest side.

    It is the median length of the optical flow, which knows turning, going ahead and parallax, but loses a tenth of
    the side or more; so the shift of the whole by phase correlation counts where it is larger.

    Args:
        before, after: (h, w) float32 in [0, 1], one size.
    """
    flow = optical_flow_ilk(before, after, radius=4, num_warp=3)
    shift = phase_cross_correlation(before, after)[0]
    longest = max(before.shape)
    return max(float(np.median(np.hypot(*flow))), float(np.hypot(*shift))) / longest


def measure(frames: Iterable[tuple[int, np.ndarray]]) -> Iterator[Candidate]:
    """Measure frames (index, (h, w) uint8 grey) in their order.

    Movement is from an anchor, which is replaced once it is STEP behind: what trembles about one place goes nowhere.
    """
    anchor: np.ndarray | None = None
    passed = 0.0
    for index, image in frames:
        small = _small(image)
        moved = 0.0 if anchor is None else movement(anchor, small)
        yield Candidate(index, sharpness(image), passed + moved)
        if anchor is None or moved >= STEP:
            anchor, passed = small, passed + moved


def choose(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """Return at most `most` candidates: the way of the camera in equal parts, and the sharpest of each part.

    A part is a STEP, or longer where there would be more of them than `most`. Frames near the middle of a part come
    first; where a still camera gives one part, one frame is kept.
    """
    if not candidates:
        return []
    positions = np.array([c.position for c in candidates])
    low, way = float(positions.min()), float(np.ptp(positions))
    parts = min(most, 1 + int(way / STEP))
    middle = (np.arange(parts) + 0.5) * way / parts
    width = way / parts if way > 0 else 1.0
    chosen = []
    for at in middle:
        away = np.abs(positions - low - at) / width
        near = np.flatnonzero(away <= 1 / 3)
        if not len(near):
            near = np.flatnonzero(away <= 1 / 2)
        if len(near):  # nothing: the camera was thrown about, from one candidate to the next
            chosen.append(max((candidates[i] for i in near.tolist()), key=lambda c: c.sharpness))
    return sorted({c.index: c for c in chosen}.values(), key=lambda c: c.index)


def _small(image: np.ndarray) -> np.ndarray:
    scale = _FLOW_SIZE / max(image.shape)
    height, width = (max(16, round(side * scale)) for side in image.shape)
    reduced = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
    return np.asarray(reduced, dtype=np.float32) / 255
