"""Volume rendering with samples only where an occupancy grid says that there is something."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ids3d.cameras import Cameras, Rays
from ids3d.config.bounds import SHARE, STEPS, STEPS_OR_NONE, check_bounds
from ids3d.memory import lack_of_memory
from ids3d.models.geometry.protocol import Geometry, ParameterGroups, Smoothing
from ids3d.models.renderers.environment import Environment
from ids3d.models.renderers.protocol import RayRender, Render
from ids3d.registry import register
from ids3d.rendering import (
    OccupancyGrid,
    Samples,
    accumulate_along_rays,
    cubic_resolution,
    visible,
    weights_from_density,
)
from ids3d.scene import SceneBounds
from ids3d.space import BOX, SpaceRays

STEP = 1.165
"""How long a step is, in the geometry's finest details, where nothing is said of it."""

STEPS_UNKNOWN, STEPS_MOST = 170, 1024
"""Steps along the diagonal of a box where nothing is said of them: of a geometry without a finest detail; at most."""

DOME = 2.0
"""How far away what is beyond a box is taken to be at first, in its corners' distance from the middle."""


@register("renderer", "occupancy")
class OccupancyRenderer(nn.Module):
    """March through an occupancy grid, drop what cannot be seen, and composite the rest over a background.

    Args:
        cfg: settings.
        geometry: the field; held as a submodule if it is a module.
        bounds: the scene's. Where its background is not known, an environment is learned.
    """

    @dataclass
    class Config:
        # Steps along the diagonal of the box. None: as many as make a step 1.165 times as long as the geometry's finest
        # detail, such as a voxel, but no more than 1,024.
        steps: int | None = None
        occupancy_cells: int = 262_144  # cells of the occupancy grid, about cubes
        occupancy_every: int = 16  # training steps between two updates of the occupancy grid
        occupancy_warmup: int = 256  # training steps during which an update looks at every cell
        occupancy_decay: float = 0.8  # what an update leaves of a cell's former opacity
        occupancy_threshold: float = 1e-3  # opacity per step from which a cell is occupied
        # Samples before which less than this is left of the ray's light are left out; 0: none.
        early_stop_eps: float = 1e-3
        alpha_threshold: float = 1e-4  # samples of less opacity are left out; 0: none
        # Height in pixels of the panorama that is learned where the background is not known, as around an object in a
        # room that its box does not hold, on a dome whose radius is learned too. 0: none, the background is black.
        environment: int = 32
        chunk: int = 8192  # rays at a time when rendering whole views: memory and speed, not the result

        def __post_init__(self) -> None:
            check_bounds(
                self,
                steps="[1, 1e5]",
                occupancy_cells="[1, 1e12]",
                occupancy_every=STEPS,
                occupancy_warmup=STEPS_OR_NONE,
                occupancy_decay=SHARE,
                occupancy_threshold=SHARE,
                early_stop_eps=SHARE,
                alpha_threshold=SHARE,
                environment="[0, 4096]",
                chunk="[1, 1e9]",
            )
            # An update looks at all cells: their numbers, centres, draws and positions, four to eight bytes each.
            fault = lack_of_memory(100 * self.occupancy_cells)
            if fault:
                raise ValueError(f"occupancy_cells={self.occupancy_cells} {fault}")

    background: Tensor

    def __init__(self, cfg: Config, geometry: Geometry, bounds: SceneBounds) -> None:
        super().__init__()
        aabb, background = bounds.aabb, bounds.background
        self.cfg, self.geometry, self.near, self.far = cfg, geometry, bounds.near, bounds.far
        self.space = bounds.space
        diagonal = float(torch.linalg.vector_norm(aabb[3:] - aabb[:3]))
        self.step_size = diagonal / (cfg.steps or _fitting(diagonal, geometry))
        self.occupancy = OccupancyGrid(aabb.float(), cubic_resolution(aabb, cfg.occupancy_cells))
        self.register_buffer("background", torch.tensor(background or (0.0, 0.0, 0.0)))
        self.environment: Environment | None = None
        if background is None and cfg.environment:
            # A box cannot reach as far as a room does; other spaces reach infinitely far.
            corner = float(aabb.view(2, 3).abs().amax(dim=0).norm())
            self.environment = Environment(
                cfg.environment, DOME * corner if bounds.space == BOX else math.inf
            )
        if bounds.free_space is not None:
            self.occupancy.carve(bounds.free_space.cameras, bounds.free_space.depth, bounds.space)

    def parameter_groups(self) -> ParameterGroups:
        """Return the geometry's parameters, with the environment's among those of the appearance."""
        groups = self.geometry.parameter_groups()
        if self.environment is None:
            return groups
        radius = self.environment.raw_radius
        layout = groups.layout if radius is None else [*groups.layout, radius]
        return ParameterGroups(groups.density, [*groups.appearance, self.environment.raw], layout)

    def smooth(self, weights: Smoothing, generator: torch.Generator | None) -> Tensor:
        """See `Geometry.smooth`; the environment's roughness counts as the appearance's."""
        rough = self.geometry.smooth(weights, generator)
        if self.environment is None or not weights.appearance:
            return rough
        behind = weights.appearance * self.environment.roughness()
        behind.backward()  # type: ignore[no-untyped-call]
        return rough + behind.detach()

    def refine(self, share: float) -> bool:
        """Bring the geometry to a share of its full resolution; see `Geometry.refine`."""
        return self.geometry.refine(share)

    def before_step(self, step: int, generator: torch.Generator) -> None:
        """Update the occupancy grid, at every `occupancy_every`-th step."""
        if step % self.cfg.occupancy_every == 0:
            self.occupancy.update(
                step,
                lambda positions: self.geometry.density(positions) * self.step_size,
                generator,
                threshold=self.cfg.occupancy_threshold,
                decay=self.cfg.occupancy_decay,
                warmup_steps=self.cfg.occupancy_warmup,
            )

    def forward(self, rays: Rays, generator: torch.Generator | None = None) -> RayRender:
        """Render n rays.

        Args:
            rays: flat, (n, 3).
            generator: a CPU generator for a random shift of each ray's steps, for training; None for no shift.

        Returns:
            RayRender, differentiable in the geometry's parameters.
        """
        n = len(rays)
        cast = self.space.cast(rays, self.near, self.far)
        samples = self._visible_samples(cast, generator)
        along = rays.directions.index_select(0, samples.ray_indices)
        densities, colours = self.geometry(_points(cast, samples), along)
        weights, _, _ = weights_from_density(samples.t_starts, samples.t_ends, densities, samples.packed_info)
        distance = cast.distance(samples.midpoints, samples.ray_indices)
        values = torch.cat([colours, distance[:, None], torch.ones_like(colours[:, :1])], dim=-1)
        rgb, depth, opacity = accumulate_along_rays(weights, values, samples.ray_indices, n).split(
            [3, 1, 1], -1
        )
        depth = depth / opacity.clamp(min=torch.finfo(opacity.dtype).eps)
        beyond = (
            self.background if self.environment is None else self.environment(rays.origins, rays.directions)
        )
        rgb = rgb + (1 - opacity) * beyond
        return RayRender(rgb, depth[:, 0], opacity[:, 0], weights, samples)

    @torch.no_grad()
    def _visible_samples(self, rays: SpaceRays, generator: torch.Generator | None) -> Samples:
        near = rays.near
        if generator is not None:
            near = near + torch.rand(len(near), generator=generator).to(near) * self.step_size
        where = rays.origins, rays.directions, near, rays.far, self.step_size
        grid = None if near.is_cuda else self.geometry.density_grid()
        if grid is not None:
            return self.occupancy.march_seen(*where, grid, self.cfg.early_stop_eps, self.cfg.alpha_threshold)
        samples = self.occupancy.march(*where)
        if self.cfg.early_stop_eps <= 0 and self.cfg.alpha_threshold <= 0:
            return samples
        densities = self.geometry.density(_points(rays, samples))
        seen = visible(
            samples.t_starts,
            samples.t_ends,
            densities,
            samples.packed_info,
            self.cfg.early_stop_eps,
            self.cfg.alpha_threshold,
        )
        return samples.where(seen)

    @torch.no_grad()
    def field(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return density (n,) and colour (n, 3) at world positions as they are rendered; see `Renderer.field`."""
        coordinates = self.space.coordinates(positions)
        density, colour = self.geometry(coordinates, directions)
        return density * self.occupancy.occupied(coordinates), colour

    @torch.no_grad()
    def render(self, camera: Cameras, chunk: int | None = None) -> Render:
        """Render the view of one camera, `chunk` rays at a time (default: the config's)."""
        parts = [self(rays) for rays in self._chunks(camera, chunk)]
        size = (camera.height, camera.width)
        return Render(
            torch.cat([part.rgb for part in parts]).view(*size, 3),
            torch.cat([part.depth for part in parts]).view(size),
            torch.cat([part.opacity for part in parts]).view(size),
        )

    def backward(self, camera: Cameras, d_rgb: Tensor, chunk: int | None = None) -> None:
        """Add to the parameters' gradients those of Σ d_rgb * render(camera).rgb.

        Deferred back-propagation (Zhang et al. 2022, ARF, section 4.3): the view is rendered again in chunks, each with
        a graph of its own, so that memory depends on the chunk and not on the size of the view.

        Args:
            camera: one camera.
            d_rgb: (h, w, 3) a loss's gradient with respect to `render(camera).rgb`.
            chunk: rays at a time (default: the config's).
        """
        grads = d_rgb.reshape(-1, 3).split(chunk or self.cfg.chunk)
        for rays, grad in zip(self._chunks(camera, chunk), grads, strict=True):
            rgb = self(rays).rgb
            if rgb.requires_grad:  # not where all rays of a chunk miss everything
                rgb.backward(grad)

    def _chunks(self, camera: Cameras, chunk: int | None) -> list[Rays]:
        if len(camera) != 1:
            raise ValueError(f"one camera at a time, not {len(camera)}")
        rays, size = camera.rays().flatten(), chunk or self.cfg.chunk
        return [rays[start : start + size] for start in range(0, len(rays), size)]


def _fitting(diagonal: float, geometry: Geometry) -> int:
    """How many steps along the diagonal suit the geometry."""
    detail = geometry.detail()
    return STEPS_UNKNOWN if detail is None else min(max(1, round(diagonal / (STEP * detail))), STEPS_MOST)


def _points(rays: SpaceRays, samples: Samples) -> Tensor:
    """Return the samples' midpoints (n_samples, 3) in the space."""
    origins, directions = (x.index_select(0, samples.ray_indices) for x in (rays.origins, rays.directions))
    return directions.mul_(samples.midpoints[:, None]).add_(origins)
