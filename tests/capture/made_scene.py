"""A room's corner made for tests: three planes with a texture of their own, seen by cameras that are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ids3d.cameras import Cameras, look_at, pinhole
from tests.capture.films import texture

SIDE = 4.0  # of each plane, which all begin at the origin
# Each plane's axis across it, and the two along it.
PLANES = ((1, 0, 2), (2, 0, 1), (0, 2, 1))


def cameras_of(count: int, height: int = 300, width: int = 400) -> Cameras:
    """Cameras on an arc of 60 degrees, a little up and down, that look into the corner."""
    at = torch.linspace(0, 1, count)
    angle = math.pi / 4 + (at - 0.5) * math.pi / 3
    eyes = torch.stack([5 * angle.sin(), 2.2 + 0.6 * (6 * at).sin(), 5 * angle.cos()], dim=-1)
    aims = torch.tensor([1.0, 1.0, 1.0]) + 0.2 * torch.stack([(5 * at).sin(), (4 * at).cos(), 0 * at], dim=-1)
    return pinhole(look_at(eyes, aims, torch.tensor([0.0, 1.0, 0.0])), height, width, 45.0)


def render(cameras: Cameras, supersampling: int = 2) -> list[np.ndarray]:
    """(h, w, 3) uint8 of each camera: the nearest of the planes along the ray through each part of a pixel."""
    textures = torch.stack([torch.from_numpy(texture(1024, seed)) for seed in range(3)]).float()
    fine = cameras.resized(supersampling * cameras.height, supersampling * cameras.width)
    pictures = []
    for k in range(len(fine)):
        rays = fine[k].rays()
        origins, directions = rays.origins[0], rays.directions[0]
        nearest = torch.full(origins.shape[:2], math.inf)
        shown = torch.full(origins.shape[:2], 128.0)
        for (axis, first, second), pattern in zip(PLANES, textures, strict=True):
            depth = -origins[..., axis] / directions[..., axis]
            places = (origins + depth[..., None] * directions)[..., [first, second]] / SIDE
            inside = (depth > 0) & (depth < nearest) & ((places >= 0) & (places <= 1)).all(dim=-1)
            values = F.grid_sample(pattern[None, None], 2 * places[None] - 1, align_corners=False)[0, 0]
            shown, nearest = torch.where(inside, values, shown), torch.where(inside, depth, nearest)
        grey = F.avg_pool2d(shown[None], supersampling)[0].round().clamp(0, 255).to(torch.uint8).numpy()
        pictures.append(np.repeat(grey[..., None], 3, axis=2))
    return pictures


def write_photographs(folder: Path, pictures: list[np.ndarray]) -> None:
    """Write pictures as `000.jpg`, `001.jpg`, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{k:03d}.jpg", quality=95)
