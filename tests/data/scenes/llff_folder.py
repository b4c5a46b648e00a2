"""Writes small LLFF folders from known cameras, with LLFF's own conventions spelled out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ids3d.cameras import Cameras, look_at, pinhole

FULL = (240, 320)  # height, width that the pose file speaks of


def arc_cameras(n: int = 10, spread: float = 30.0, radius: float = 3.0, seed: int = 0) -> Cameras:
    """n cameras on an arc of +- spread degrees (180: all around), some 20 degrees up, that look about at one point.

    The world's axes are unlike the scene's on purpose: z is up, and the point looked at is (1, 2, 3).
    """
    g = torch.Generator().manual_seed(seed)
    share = (torch.arange(n) + 0.5) / n * 2 - 1
    azimuth = share * math.radians(spread)
    elevation = math.radians(20) + 0.15 * torch.randn(n, generator=g)
    eye = radius * torch.stack(
        [azimuth.cos() * elevation.cos(), azimuth.sin() * elevation.cos(), elevation.sin()], dim=-1
    )
    target = torch.tensor([1.0, 2.0, 3.0])
    c2w = look_at(eye + target, target + 0.02 * torch.randn(n, 3, generator=g), torch.tensor([0.0, 0.0, 1.0]))
    return pinhole(c2w, *FULL, fov_y=40.0)


def pose_table(cameras: Cameras, bounds: Tensor) -> np.ndarray:
    """(n, 17) float64, written out number by number: columns down, right, back, centre, (h, w, f)."""
    rows = []
    for c2w, focal, (near, far) in zip(
        cameras.c2w.double(), cameras.fx.tolist(), bounds.tolist(), strict=True
    ):
        right, up, back, centre = (c2w[:, k].tolist() for k in range(4))
        size = [cameras.height, cameras.width, focal]
        row = []
        for axis in range(3):
            row += [-up[axis], right[axis], back[axis], centre[axis], size[axis]]
        rows.append([*row, near, far])
    return np.array(rows)


def write_scene(
    root: Path,
    cameras: Cameras,
    bounds: tuple[float, float] | Tensor = (2.0, 4.5),
    folders: dict[str, tuple[int, int]] | None = None,
    name: str = "view_{:03d}.png",
) -> Path:
    """An LLFF folder; `folders` maps names to the images' (height, width). Image i has grey value 10 i."""
    root.mkdir(parents=True, exist_ok=True)
    each = torch.as_tensor(bounds, dtype=torch.float64).expand(len(cameras), 2)
    np.save(root / "poses_bounds.npy", pose_table(cameras, each))
    for folder, (height, width) in (folders or {"images_4": (60, 80)}).items():
        (root / folder).mkdir()
        for i in range(len(cameras)):
            Image.new("RGB", (width, height), (10 * i,) * 3).save(root / folder / name.format(i))
    return root
