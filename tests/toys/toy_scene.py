"""A scene format that reads no file: a red ball, seen from a row of cameras before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ids3d.cameras import Rays, Views, look_at, pinhole
from ids3d.scene import Scene, SceneBounds, Similarity


class RedBall:
    @dataclass
    class Config:
        views: int = 6
        size: int = 16  # pixels

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def load(self) -> Scene:
        n, size = self.cfg.views, self.cfg.size
        x = torch.linspace(-1, 1, n)
        eyes = torch.stack([x, 0.3 * x.square(), torch.full_like(x, 3.0)], dim=-1)
        cameras = pinhole(look_at(eyes, torch.zeros(3), torch.tensor([0.0, 1.0, 0.0])), size, size, 40.0)
        views = Views(_colours(cameras.rays()), cameras, tuple(f"{i:02d}" for i in range(n)))
        held_out = torch.arange(n) % 3 == 1
        return Scene(
            train=views[~held_out],
            test=views[held_out],
            bounds=SceneBounds(torch.tensor([-1.0, -1, -1, 1, 1, 1]), 1.5, 5.0, (0.0, 0.0, 0.0)),
            layout="forward-facing",
            to_scene=Similarity(torch.eye(3).double(), torch.zeros(3).double(), 1.0),
            captions=("a red ball", "a blue ball"),
        )


def _colours(rays: Rays) -> Tensor:
    """rgb (..., 3): red where a ray (...) meets a ball of radius 0.6 about the origin, black elsewhere."""
    along = (rays.origins * rays.directions).sum(-1)
    hit = rays.origins.square().sum(-1) - along.square() < 0.6**2
    return hit[..., None] * torch.tensor([0.9, 0.1, 0.1])
