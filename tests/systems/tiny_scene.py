"""A scene small enough to be reconstructed and edited in seconds: a ball in a box, ray-traced in closed form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ids3d.cameras import Cameras, Rays, look_at, pinhole
from tests.data.scenes.llff_folder import pose_table

SIZE = 24
RED, BLUE = (0.85, 0.15, 0.1), (0.1, 0.2, 0.9)


def cameras(n: int = 10) -> Cameras:
    """On an arc before the ball."""
    angle = torch.linspace(-0.5, 0.5, n)
    eye = torch.stack([2.5 * angle.sin(), 0.3 * (3 * angle).cos(), 2.5 * angle.cos()], dim=-1)
    return pinhole(look_at(eye, torch.zeros(3), torch.tensor([0.0, 1.0, 0.0])), SIZE, SIZE, fov_y=45.0)


def trace(rays: Rays, ball: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """(rgb (..., 3), hits the ball (...)): a ball of radius 0.5 before a wall of stripes at z = -1."""
    o, d = rays.origins, rays.directions
    b, c = (o * d).sum(-1), (o * o).sum(-1) - 0.25
    hit = b * b - c > 0
    wall = o + ((-1 - o[..., 2]) / d[..., 2])[..., None] * d
    stripes = (wall[..., :1] * 3).sin() > 0
    rgb = torch.where(stripes, torch.tensor([0.8, 0.7, 0.5]), torch.tensor([0.3, 0.5, 0.4]))
    return torch.where(hit[..., None], torch.tensor(ball), rgb), hit


def write(root: Path, truth: bool = True, captions: bool = True) -> Path:
    """The scene as an LLFF folder of 10 views (2 held out); the edit makes the red ball blue."""
    poses = cameras()
    for name in ("images", *(("edited", "masks") if truth else ())):
        (root / name).mkdir(parents=True)
    np.save(root / "poses_bounds.npy", pose_table(poses, torch.tensor([1.8, 4.0]).expand(len(poses), 2)))
    before, hit = trace(poses.rays(), RED)
    after, _ = trace(poses.rays(), BLUE)
    for i in range(len(poses)):
        _save(root / "images" / f"{i:02d}.png", before[i])
        if truth and i % 8 == 0:
            _save(root / "edited" / f"{i:02d}.png", after[i])
            _save(root / "masks" / f"{i:02d}.png", hit[i].float()[..., None].expand(-1, -1, 3))
    if captions:
        texts = {"source": "a red cube on a wooden floor", "target": "a blue cube on a wooden floor"}
        texts |= {"world": "tabletop"} if truth else {}
        (root / "captions.json").write_text(json.dumps(texts))
    return root


def _save(path: Path, image: Tensor) -> None:
    Image.fromarray((image * 255).round().byte().numpy()).save(path)
