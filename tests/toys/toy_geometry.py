"""A geometry without a grid: a few Gaussian blobs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ids3d.models.geometry.protocol import ParameterGroups, Smoothing
from ids3d.scene import SceneBounds


class Blobs(nn.Module):
    @dataclass
    class Config:
        blobs: int = 24

    aabb: Tensor

    def __init__(self, cfg: Config, bounds: SceneBounds) -> None:
        super().__init__()
        self.register_buffer("aabb", bounds.aabb.float())
        low, high = self.aabb.view(2, 3)
        self.centres = nn.Parameter(low + (high - low) * torch.rand(cfg.blobs, 3))
        self.log_radii = nn.Parameter(torch.full((cfg.blobs,), float((0.15 * (high - low).mean()).log())))
        self.raw_density = nn.Parameter(torch.zeros(cfg.blobs))
        self.raw_colours = nn.Parameter(torch.zeros(cfg.blobs, 3))

    def _densities(self, positions: Tensor) -> Tensor:
        """What each blob adds to the density, (n, blobs)."""
        inside = ((positions >= self.aabb[:3]) & (positions <= self.aabb[3:])).all(-1, keepdim=True)
        squared = (positions[:, None] - self.centres).square().sum(-1) / (2 * self.log_radii).exp()
        return inside * F.softplus(self.raw_density) * (-squared / 2).exp()

    def density_grid(self) -> None:
        return None

    def detail(self) -> None:
        return None

    def density(self, positions: Tensor) -> Tensor:
        return self._densities(positions).sum(-1)

    def forward(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        each = self._densities(positions)
        total = each.sum(-1)
        colours = each @ torch.sigmoid(self.raw_colours) / total.clamp(min=1e-8)[:, None]
        return total, colours

    def parameter_groups(self) -> ParameterGroups:
        return ParameterGroups([self.centres, self.log_radii, self.raw_density], [self.raw_colours])

    def smooth(self, weights: Smoothing, generator: torch.Generator | None) -> Tensor:
        rough = (
            weights.density * self.raw_density.square().mean() + weights.appearance * self.raw_colours.var()
        )
        rough.backward()
        return rough.detach()

    def refine(self, share: float) -> bool:
        return False
