"""Videos made for tests: a window that moves over a texture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates


def texture(side: int = 512, seed: int = 0) -> np.ndarray:
    """(side, side) float in [0, 255] with detail at every scale."""
    rng = np.random.default_rng(seed)
    made = sum(s * gaussian_filter(rng.standard_normal((side, side)), s) for s in (1, 2, 4, 8, 16))
    low, high = np.quantile(made, (0.01, 0.99))
    return (255 * (made - low) / (high - low)).clip(0, 255)


def window(of: np.ndarray, left: float, top: float = 100.0, height: int = 96, width: int = 128) -> np.ndarray:
    """(height, width) uint8 of a texture, from a corner that need not be at a whole pixel."""
    rows, columns = np.mgrid[:height, :width].astype(float)
    return map_coordinates(of, [rows + top, columns + left], order=1, mode="wrap").round().astype(np.uint8)


def write_film(path: Path, frames: Iterable[np.ndarray], fps: int = 20) -> None:
    """Write (h, w) grey or (h, w, 3) frames, nearly without loss."""
    writer = None
    for frame in frames:
        rgb = frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2)
        if writer is None:
            size = rgb.shape[1], rgb.shape[0]
            writer = imageio_ffmpeg.write_frames(
                path, size, fps=fps, quality=None, macro_block_size=1, output_params=["-crf", "10"]
            )
            writer.send(None)
        writer.send(np.ascontiguousarray(rgb))
    assert writer is not None
    writer.close()
