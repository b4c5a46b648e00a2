"""A multiresolution hash grid with small networks behind it: fine detail in little memory, for a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ids3d.config.bounds import check_bounds
from ids3d.memory import lack_of_memory
from ids3d.models.geometry.hash_encoding import HashEncoding, Levels
from ids3d.models.geometry.protocol import ParameterGroups, Smoothing
from ids3d.models.geometry.spherical_harmonics import basis
from ids3d.registry import register
from ids3d.rendering import DensityGrid
from ids3d.scene import SceneBounds
from ids3d.seeding import generator_for

GAIN = 0.2
"""What parameters are multiplied by before they are used (the equalised learning rate of Karras et al. 2018, section
4.1): rates that suit a voxel grid's raw values suit these then. Of .05, .1 and .2 the last reconstructed best."""

FINEST = 2048
"""Nodes along a side of the finest level at most, where nothing is said of them."""

DETAILS = 100
"""Densities count per this part of the box's longest side."""


@register("geometry", "hash")
class HashGeometry(nn.Module):
    """Density and colour by two hash grids, each read by a small network (Instant-NGP: Müller et al. 2022).

        density = softplus(network(features) + shift) / unit
        colour = sigmoid(network(features of the colour, spherical harmonics of the direction))

    with `unit` a hundredth of the box's longest side, and `shift` such that an untouched field has the opacity
    `initial_alpha` per unit. The published field has one grid for both; here what decides where something is has a grid
    and a network of its own, so that an edit of the appearance leaves it alone, and densities are read without colours.
    On CUDA the grids are read by tiny-cuda-nn where it is installed; the parameters are the same.

    Args:
        cfg: settings.
        bounds: the scene's: the box that the grids fill, as cubes along its longest side.

    No gradient goes to positions.
    """

    @dataclass
    class Config:
        # Nodes of the finest level along the box's longest side. None: as many as make a cell a pixel wide where the
        # cameras look, but no more than 2,048.
        finest: int | None = None
        # Logarithm to the base 2 of how many nodes a level holds; where it has more, they share.
        log2_size: int = 18
        # Numbers at each node of the colour's grid; the density's has half of them.
        features: Literal[2, 4, 8] = 4
        width: int = 32  # of the networks' hidden layer
        sh_degree: int = 1  # 0: a colour is the same from everywhere; 1 or 2: it depends on the direction
        # Opacity of an untouched field per hundredth of the box's longest side.
        initial_alpha: float = 2e-3
        freeze_density: bool = False  # for edits of the appearance alone

        def __post_init__(self) -> None:
            check_bounds(
                self,
                finest="[2, 65536]",
                log2_size="[4, 28]",
                width="[1, 1024]",
                sh_degree="[0, 2]",
                initial_alpha="(0, 1)",
            )
            # Single precision: the tables, their gradients, and two averages of each in the optimiser.
            levels = Levels.up_to(self.finest or FINEST, self.features, self.log2_size)
            fault = lack_of_memory(16 * sum(levels.sizes()) * self.features * 3 // 2)
            if fault:
                raise ValueError(f"log2_size={self.log2_size} {fault}")

    aabb: Tensor

    def __init__(self, cfg: Config, bounds: SceneBounds) -> None:
        super().__init__()
        self.cfg = cfg
        self.register_buffer("aabb", bounds.aabb.float())
        self.side = float((bounds.aabb[3:] - bounds.aabb[:3]).max())
        self.unit = self.side / DETAILS
        self.shift = math.log(math.expm1(-math.log1p(-cfg.initial_alpha)))
        self.finest = cfg.finest or self._fitting(bounds)
        self.where = HashEncoding(Levels.up_to(self.finest, cfg.features // 2, cfg.log2_size))
        self.look = HashEncoding(Levels.up_to(self.finest, cfg.features, cfg.log2_size))
        harmonics = (cfg.sh_degree + 1) ** 2 - 1
        self.density_network = Network(self.where.width, cfg.width, 1)
        self.colour_network = Network(self.look.width + harmonics, cfg.width, 3)
        generator = generator_for(0, "geometry")
        for module in (self.where, self.look, self.density_network, self.colour_network):
            begin(module, generator)
        for parameter in self.parameter_groups().density:
            parameter.requires_grad_(not cfg.freeze_density)

    def _fitting(self, bounds: SceneBounds) -> int:
        """How many nodes along the longest side suit the training views' pixels."""
        return FINEST if bounds.pixel is None else min(max(2, math.ceil(self.side / bounds.pixel)), FINEST)

    def detail(self) -> float:
        """Return the side of the finest level's cells."""
        return self.side / (self.where.levels.sides()[-1] - 1)

    def parameter_groups(self) -> ParameterGroups:
        """Return the grids' tables and the networks' weights, of the density and of the colour."""
        return ParameterGroups(
            [*self.where.parameters(), *self.density_network.parameters()],
            [*self.look.parameters(), *self.colour_network.parameters()],
        )

    def density_grid(self) -> DensityGrid | None:
        """Return None: a network lies between the nodes and the density."""
        return None

    def density(self, positions: Tensor) -> Tensor:
        """Return density (n,) >= 0, per world unit, at positions (n, 3) in world units; 0 outside the box."""
        inside = ((positions >= self.aabb[:3]) & (positions <= self.aabb[3:])).all(-1)
        raw: Tensor = self.density_network(GAIN * self.where(self._unit(positions)))[:, 0]
        return F.softplus(raw + self.shift) * (inside / self.unit)

    def forward(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return density as above, and colour (n, 3) in (0, 1) seen along unit directions (n, 3).

        Differentiable in the parameters.
        """
        seen_along = basis(directions, self.cfg.sh_degree)[:, 1:]
        features = torch.cat([GAIN * self.look(self._unit(positions)), seen_along], dim=-1)
        return self.density(positions), torch.sigmoid(self.colour_network(features))

    def _unit(self, positions: Tensor) -> Tensor:
        """Positions in the unit cube along the box's longest side; those outside are moved to the box."""
        return (positions.clamp(self.aabb[:3], self.aabb[3:]) - self.aabb[:3]) / self.side

    def refine(self, share: float) -> bool:
        """Return False: all resolutions are there from the start."""
        return False

    def smooth(self, weights: Smoothing, generator: torch.Generator | None) -> Tensor:
        """See `Geometry.smooth`: the features' mean squares, summed over the levels (Barron et al. 2023, Zip-NeRF,
        section 4)."""
        where, look = (
            sum(((GAIN * table).square().mean() for table in grid.by_level()), grid.table.new_zeros(()))
            for grid in (self.where, self.look)
        )
        rough = weights.density * where + weights.appearance * look
        rough.backward()  # type: ignore[no-untyped-call]
        return rough.detach()


class Network(nn.Module):
    """Two linear layers without offsets, and a ReLU between them.

    Args:
        inputs, hidden, outputs: its widths.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(hidden, inputs))
        self.last = nn.Parameter(torch.zeros(outputs, hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs) to (n, outputs)."""
        return F.linear(F.relu(F.linear(x, GAIN * self.first)), GAIN * self.last)


@torch.no_grad()
def begin(module: HashEncoding | Network, generator: torch.Generator) -> None:
    """Draw an encoding's features within 1e-4, as published, a network's weights as He et al. 2015 do."""
    for parameter in module.parameters():
        bound = 1e-4 if isinstance(module, HashEncoding) else math.sqrt(6 / parameter.shape[1])
        drawn = torch.rand(parameter.shape, generator=generator) * 2 - 1
        parameter.copy_(bound / GAIN * drawn)
