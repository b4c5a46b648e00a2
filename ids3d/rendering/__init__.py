"""Ray marching, packed scans and compositing: nerfacc's kernels on CUDA, PyTorch everywhere else."""

from __future__ import annotations

from ids3d.rendering.boxes import ray_aabb_intersect
from ids3d.rendering.density_grid import DensityGrid
from ids3d.rendering.distortion import distortion
from ids3d.rendering.march import march
from ids3d.rendering.occupancy import OccupancyGrid, cubic_resolution
from ids3d.rendering.samples import Samples, packed
from ids3d.rendering.scan import exclusive_prod, exclusive_sum, inclusive_prod, inclusive_sum, pack_info
from ids3d.rendering.volume import (
    accumulate_along_rays,
    transmittance_from_density,
    visible,
    weights_from_density,
)

__all__ = [
    "DensityGrid",
    "OccupancyGrid",
    "Samples",
    "accumulate_along_rays",
    "cubic_resolution",
    "distortion",
    "exclusive_prod",
    "exclusive_sum",
    "inclusive_prod",
    "inclusive_sum",
    "march",
    "pack_info",
    "packed",
    "ray_aabb_intersect",
    "transmittance_from_density",
    "visible",
    "weights_from_density",
]
