"""A dense voxel grid: of all fields the fastest to fit on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ids3d.config.bounds import check_bounds
from ids3d.memory import lack_of_memory
from ids3d.models.geometry.protocol import ParameterGroups, Smoothing
from ids3d.models.geometry.spherical_harmonics import basis
from ids3d.models.geometry.trilinear import Trilinear
from ids3d.registry import register
from ids3d.rendering import DensityGrid, cubic_resolution
from ids3d.scene import SceneBounds

# Densities count per side of a voxel, were there this many in the box, whatever the grid's resolution is.
REFERENCE_VOXELS = 1_000_000

FEWEST, MOST = 1_000_000, 8_000_000
"""Nodes of a grid of which nothing is said: what costs little, and what two cores and a few gigabytes can hold."""

TOLD = 1.25
"""How many nodes a pixel of the training views tells apart, at most, in a grid of which nothing is said."""

# Weight of the harmonics' squares beside their differences in the appearance's roughness: what looks the same from
# everywhere is not to be explained by the direction.
SHRINKAGE = 10.0


@register("geometry", "grid")
class GridGeometry(nn.Module):
    """Density and colour interpolated from the nodes of a grid that fills a box (DVGO: Sun, Sun & Chen 2022).

    The stored density is interpolated first and activated after (DVGO's post-activation, which lets a voxel hold a
    sharp surface):

        density = softplus(raw + shift) / unit

    with `unit` the side of one of `REFERENCE_VOXELS` voxels and `shift` such that raw = 0, where the grid begins, has
    the opacity `initial_alpha` per unit. The colour is the sigmoid of spherical harmonics, whose coefficients are
    interpolated. Those that depend on the direction lie on a grid of its own with half the nodes along each side:
    highlights are smoother than textures, and an eighth of the memory is read several times as fast.

    Where the scene has a core, the nodes are `magnify` times as dense in it along each axis: coordinates are stretched
    there before the grid is laid out evenly, as contracted scenes have it (Barron et al. 2022), but piecewise linearly.

    Args:
        cfg: settings.
        bounds: the scene's: the box that the grid fills, and the core where detail matters, if there is one.

    Parameters:
        raw_density: (v, 1), v = x * y * z nodes, z fastest.
        raw_appearance: (v, 3), the harmonic of degree 0 of red, green and blue.
        raw_harmonics: (w, 3 * ((sh_degree + 1)² - 1)), the others, of red, then green, then blue, for about v / 8
            nodes; only with sh_degree > 0.

    No gradient goes to positions and directions.
    """

    @dataclass
    class Config:
        # Nodes of the grid, spread over the sides so that the voxels are about cubes. None: as many as make a voxel a
        # pixel wide where the cameras look, but no more than 1.25 for each pixel of the training views, and between
        # 1,000,000 and 8,000,000.
        voxels: int | None = None
        # 0: a colour is the same from everywhere; 1 or 2: it depends on the direction of view.
        sh_degree: int = 0
        # Opacity of an untouched field per hundredth of the box. Small, so that what is near a camera does not hide the
        # rest (DVGO, section 4.2), but above the renderer's occupancy threshold, or the field would be skipped unseen.
        initial_alpha: float = 2e-3
        magnify: float = 4.0  # how much denser the nodes are in the scene's core, if it has one
        freeze_density: bool = False  # for edits of the appearance alone

        def __post_init__(self) -> None:
            check_bounds(
                self, voxels="[8, 1e12]", sh_degree="[0, 2]", magnify="[1, 100]", initial_alpha="(0, 1)"
            )
            # Single precision: the tables, their gradients, and two averages of each in the optimiser.
            more = 3 * ((self.sh_degree + 1) ** 2 - 1) / 8
            fault = lack_of_memory(round(16 * (self.voxels or 0) * (4 + more)))
            if fault:
                raise ValueError(f"voxels={self.voxels} {fault}")

    aabb: Tensor
    core: Tensor

    def __init__(self, cfg: Config, bounds: SceneBounds) -> None:
        super().__init__()
        self.cfg = cfg
        aabb, core = bounds.aabb, bounds.core
        self.register_buffer("aabb", aabb.float())
        # Without a core, an empty one at the box's corner: nothing is stretched.
        self.register_buffer("core", aabb[:3].repeat(2).float() if core is None else core.float())
        self.magnified = core is not None
        volume = float((aabb[3:] - aabb[:3]).double().prod())
        self.unit = (volume / REFERENCE_VOXELS) ** (1 / 3)
        self.shift = math.log(math.expm1(-math.log1p(-cfg.initial_alpha)))
        self.resolution = cubic_resolution(self._stretched_box(), cfg.voxels or self._fitting(bounds))
        nodes = math.prod(self.resolution)
        self.full_voxels = self.voxels = nodes  # at full resolution, and asked for at the present one
        self.raw_density = nn.Parameter(torch.zeros(nodes, 1), requires_grad=not cfg.freeze_density)
        self.raw_appearance = nn.Parameter(torch.zeros(nodes, 3))
        self.raw_harmonics: nn.Parameter | None = None
        if cfg.sh_degree > 0:
            others = 3 * ((cfg.sh_degree + 1) ** 2 - 1)
            self.raw_harmonics = nn.Parameter(torch.zeros(math.prod(_coarser(self.resolution)), others))

    def _fitting(self, bounds: SceneBounds) -> int:
        """How many nodes suit the training views' pixels."""
        if bounds.pixel is None or bounds.pixels is None:
            return FEWEST
        side = bounds.pixel * (1 if bounds.core is None else self.cfg.magnify)
        box = self._stretched_box().double()
        pixel_wide = float(((box[3:] - box[:3]) / side).prod())
        return round(max(FEWEST, min(pixel_wide, TOLD * bounds.pixels, MOST)))

    def detail(self) -> float:
        """Return the side of a voxel at full resolution, where they are smallest."""
        box = self._stretched_box().double()
        side = float((box[3:] - box[:3]).prod() / self.full_voxels) ** (1 / 3)
        return side if torch.equal(self.core[:3], self.core[3:]) else side / self.cfg.magnify

    def parameter_groups(self) -> ParameterGroups:
        """Return the grid's tables. They are new ones whenever `refine` returned True."""
        appearance = (
            [self.raw_appearance] if self.raw_harmonics is None else [self.raw_appearance, self.raw_harmonics]
        )
        return ParameterGroups([self.raw_density], appearance)

    def density_grid(self) -> DensityGrid:
        """Return what the density is interpolated from."""
        return DensityGrid(
            *(
                self.raw_density,
                self.resolution,
                self.aabb,
                self.core,
                self.cfg.magnify,
                self.shift,
                self.unit,
            )
        )

    def density(self, positions: Tensor) -> Tensor:
        """Return density (n,) >= 0, per world unit, at positions (n, 3) in world units; 0 outside the box."""
        at, inside = self._locate(positions)
        return self._activated_density(at, inside)

    def forward(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return density as above, and colour (n, 3) in (0, 1) seen along unit directions (n, 3).

        Differentiable in the parameters.
        """
        at, inside = self._locate(positions)
        colour = at(self.raw_appearance)
        if self.raw_harmonics is not None:
            others = at.of_resolution(_coarser(self.resolution))(self.raw_harmonics).unflatten(-1, (3, -1))
            colour = colour + (others * basis(directions, self.cfg.sh_degree)[:, None, 1:]).sum(-1)
        return self._activated_density(at, inside), torch.sigmoid(colour)

    def _locate(self, positions: Tensor) -> tuple[Trilinear, Tensor]:
        box = self._stretched_box()
        # Axis by axis: in one comparison of (n, 3) and an `all` it takes a CPU eight times as long.
        inside = torch.ones_like(positions[:, 0], dtype=torch.bool)
        for at, lower, upper in zip(positions.unbind(-1), *self.aabb.view(2, 3), strict=True):
            inside &= (at >= lower) & (at <= upper)
        unit = (self._stretched(positions) - box[:3]) / (box[3:] - box[:3])
        return Trilinear(unit, self.resolution), inside

    def _stretched(self, positions: Tensor) -> Tensor:
        """Map positions (..., 3) to axes that are `magnify` times as long within the core."""
        if not self.magnified:
            return positions
        core = torch.minimum(torch.maximum(positions, self.core[:3]), self.core[3:]) - self.core[:3]
        return positions + (self.cfg.magnify - 1) * core

    def _stretched_box(self) -> Tensor:
        return self._stretched(self.aabb.view(2, 3)).flatten()

    def _activated_density(self, at: Trilinear, inside: Tensor) -> Tensor:
        return F.softplus(at(self.raw_density)[:, 0] + self.shift) * (inside / self.unit)

    def refine(self, share: float) -> bool:
        """Interpolate the grid to about a share of its full resolution. Returns whether the parameters are new ones."""
        voxels = max(8, round(self.full_voxels * share))
        if voxels == self.voxels:
            return False
        self.resample(voxels)
        return True

    @torch.no_grad()
    def resample(self, voxels: int) -> None:
        """Interpolate the grid to about `voxels` nodes. The parameters are new ones, for a new optimiser."""
        self.voxels = voxels
        old, new = self.resolution, cubic_resolution(self._stretched_box(), voxels)
        tables = {
            name: _resampled(getattr(self, name), old, new) for name in ("raw_density", "raw_appearance")
        }
        if self.raw_harmonics is not None:
            tables["raw_harmonics"] = _resampled(self.raw_harmonics, _coarser(old), _coarser(new))
        self._set_tables(new, tables)

    def _set_tables(self, resolution: tuple[int, int, int], tables: Mapping[str, Tensor]) -> None:
        self.resolution = resolution
        for name, table in tables.items():
            setattr(self, name, nn.Parameter(table, requires_grad=getattr(self, name).requires_grad))

    def smooth(self, weights: Smoothing, generator: torch.Generator | None, planes: int = 8) -> Tensor:
        """See `Geometry.smooth`: the mean squared difference of neighbouring nodes (total variation) of raw values.

        Args:
            generator: draws where along x the slab lies that the mean is taken over, a cheap estimate of the whole;
                None: the whole grid.
            planes: how thick the slab is, in voxels.
        """
        x = self.resolution[0]
        slab = slice(0, x)
        if generator is not None and planes + 1 < x:
            first = int(torch.randint(x - planes, (1,), generator=generator))
            slab = slice(first, first + planes + 1)
        rough = _smooth(self.raw_density, self.resolution, slab, _mean_squared_difference, weights.density)
        appearance = self.raw_appearance, self.resolution, slab, _mean_squared_difference
        rough = rough + _smooth(*appearance, weights.appearance)
        if self.raw_harmonics is not None:
            coarser = _coarser(self.resolution)
            whole = self.raw_harmonics, coarser, slice(0, coarser[0]), _shrunk_difference
            rough = rough + _smooth(*whole, weights.appearance)
        return rough

    def get_extra_state(self) -> tuple[int, int, int, int]:
        return (*self.resolution, self.voxels)

    def set_extra_state(self, state: tuple[int, int, int, int]) -> None:
        *resolution, self.voxels = state
        self.resolution = tuple(resolution)  # type: ignore[assignment]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Take on the saved grid's resolution first: it may be another (`resample`)."""
        saved = {name: state_dict.get(prefix + name) for name, _ in self.named_parameters()}
        tables = {name: table.to(self.raw_density) for name, table in saved.items() if table is not None}
        if len(tables) == len(saved) and len(tables["raw_density"]) != len(self.raw_density):
            self._set_tables(tuple(state_dict[prefix + "_extra_state"][:3]), tables)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _mean_squared_difference(volume: Tensor) -> Tensor:
    """Sum, over the first three axes of (x, y, z, c), the mean squared difference of neighbours."""
    return sum((volume.diff(dim=axis).square().mean() for axis in range(3)), volume.new_zeros(()))


def _shrunk_difference(volume: Tensor) -> Tensor:
    return _mean_squared_difference(volume) + SHRINKAGE * volume.square().mean()


def _smooth(
    table: nn.Parameter,
    resolution: tuple[int, int, int],
    slab: slice,
    roughness: Callable[[Tensor], Tensor],
    weight: float,
) -> Tensor:
    """Add to a table's gradient that of the weighted roughness of a slab of it, and return that."""
    if not (weight and table.requires_grad):
        return table.new_zeros(())
    nodes = table.detach().view(*resolution, -1)[slab].requires_grad_()
    rough = weight * roughness(nodes)
    rough.backward()  # type: ignore[no-untyped-call]
    if table.grad is None:
        table.grad = torch.zeros_like(table)
    assert nodes.grad is not None
    table.grad.view(*resolution, -1)[slab] += nodes.grad
    return rough.detach()


def _coarser(resolution: tuple[int, int, int]) -> tuple[int, int, int]:
    """Half the nodes along each side, at least 2."""
    x, y, z = (max(2, (nodes + 1) // 2) for nodes in resolution)
    return x, y, z


def _resampled(table: Tensor, old: tuple[int, int, int], new: tuple[int, int, int]) -> Tensor:
    """Interpolate a table (nodes of the old resolution, c) at the nodes of a new one."""
    volume = table.view(1, *old, -1).permute(0, 4, 1, 2, 3)
    volume = F.interpolate(volume, size=new, mode="trilinear", align_corners=True)
    return volume.permute(0, 2, 3, 4, 1).reshape(-1, table.shape[1])
