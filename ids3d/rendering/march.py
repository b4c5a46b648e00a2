"""Ray marching through occupancy grids: where the samples of a ray go.

On CUDA nerfacc's kernels (`nerfacc/cuda/csrc/grid.cu`, version 0.5.3); elsewhere loops with the same results up to
rounding. Both follow nerfacc's rules:

* A ray steps from its near plane, wherever the boxes begin: sample k covers [t_k, t_{k+1}], with t_0 the near plane
  and t_{k+1} = t_k + step_size.
* A sample is kept if its midpoint lies in an occupied cell, before the far plane. Its end may thus lie up to half a
  step behind the far plane or the box.
* Of several nested boxes the innermost one that holds the midpoint decides.
* With a cone angle, steps grow with the distance; see `ids3d.rendering.cone`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import nerfacc
import torch
from torch import Tensor

from ids3d.rendering import loops
from ids3d.rendering.boxes import clip_rays
from ids3d.rendering.cone import march_cone
from ids3d.rendering.density_grid import DensityGrid
from ids3d.rendering.loops import in_parts
from ids3d.rendering.samples import Samples


@torch.no_grad()
def march(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
    cone_angle: float = 0.0,
) -> Samples:
    """Place samples along rays, within the occupied cells of grids.

    Args:
        rays_o, rays_d: (n_rays, 3), directions of unit length.
        binaries: (m, x, y, z) bool, the occupied cells of m grids.
        aabbs: (m, 6) their boxes, lower corner then upper corner.
        near_planes: (n_rays,) finite distances at which the rays begin.
        far_planes: (n_rays,) distances at which they end; inf is allowed.
        step_size: world units, > 0.
        cone_angle: >= 0; the step at distance t is max(step_size, cone_angle * t).

    Returns:
        Samples, possibly none. Not differentiable.

    Raises:
        ValueError: step_size is not positive, or cone_angle is negative.
    """
    if not (step_size > 0 and cone_angle >= 0):
        raise ValueError(f"a step size of {step_size} and a cone angle of {cone_angle}")
    if len(rays_o) == 0:
        nothing = rays_o.new_zeros(0)
        return Samples(nothing, nothing, nothing.long(), nothing.long().view(0, 2))
    if rays_o.is_cuda:
        return _march_nerfacc(rays_o, rays_d, binaries, aabbs, near_planes, far_planes, step_size, cone_angle)
    if cone_angle > 0:
        pieces = clip_rays(rays_o, rays_d, aabbs, near_planes, far_planes)
        return march_cone(rays_o, rays_d, binaries, aabbs, near_planes, pieces, step_size, cone_angle)
    return _march_lattice(rays_o, rays_d, binaries, aabbs, near_planes, far_planes, step_size)


def _march_nerfacc(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
    cone_angle: float,
) -> Samples:
    intervals, samples, _ = nerfacc.traverse_grids(
        rays_o, rays_d, binaries, aabbs, near_planes, far_planes, step_size, cone_angle
    )
    t_starts, t_ends = intervals.vals[intervals.is_left], intervals.vals[intervals.is_right]
    return Samples(t_starts, t_ends, samples.ray_indices, samples.packed_info)


def _march_lattice(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
) -> Samples:
    """March with equal steps."""
    arrays = _arrays(rays_o, rays_d, near_planes, far_planes, binaries, aabbs, step_size)
    return _packed_steps(
        lambda a, b, counts, found: loops.march_lattice(*arrays, a, b, counts, found),
        *(near_planes, aabbs, step_size),
    )


@torch.no_grad()
def march_seen(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
    density: DensityGrid,
    early_stop_eps: float,
    alpha_threshold: float,
) -> Samples:
    """Place samples as `march` does, but only where they can be seen, on a CPU.

    A step whose opacity is below `alpha_threshold` is left out, and takes no light from what is behind it. A ray ends
    where less than `early_stop_eps` of its light is left. Other arguments as for `march`.
    """
    arrays = _arrays(rays_o, rays_d, near_planes, far_planes, binaries, aabbs, step_size)
    thickness = step_size / density.unit
    least = density.value_of(-math.log1p(-alpha_threshold) / step_size) if alpha_threshold < 1 else math.inf
    value, axes = density.table.detach().numpy(), density.axes().numpy()
    most_passed = -math.log(early_stop_eps) if early_stop_eps > 0 else math.inf
    shift, thick, least_value, most = (
        density.table.new_tensor(x).numpy()[()] for x in (density.shift, thickness, least, most_passed)
    )
    return _packed_steps(
        lambda a, b, counts, found: loops.march_seen(
            *(*arrays, value, density.resolution, axes, shift, thick, least_value, most),
            a,
            b,
            counts,
            found,
        ),
        *(near_planes, aabbs, step_size),
    )


def _arrays(
    rays_o: Tensor, rays_d: Tensor, near: Tensor, far: Tensor, binaries: Tensor, aabbs: Tensor, step: float
) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
    o, d, n, f, cells, boxes = (x.contiguous().numpy() for x in (rays_o, rays_d, near, far, binaries, aabbs))
    return o, d, n, f, cells, boxes, near.new_tensor(step).numpy()[()]


def _packed_steps(
    look: Callable[[int, int, Any, Any], object], near_planes: Tensor, aabbs: Tensor, step_size: float
) -> Samples:
    """Samples of what look(first ray, last ray, counts, found) notes."""
    n = len(near_planes)
    most = math.ceil(float((aabbs[:, 3:].amax(0) - aabbs[:, :3].amin(0)).norm()) / step_size) + 2
    counts, found = torch.empty(n, dtype=torch.int64), torch.empty(n, most, dtype=torch.int32)
    in_parts(lambda a, b: look(a, b, counts.numpy(), found.numpy()), n, least=256)
    starts = counts.cumsum(0) - counts
    steps, rays = (
        torch.empty(int(counts.sum()), dtype=torch.int32),
        torch.empty(int(counts.sum()), dtype=torch.int64),
    )
    loops.pack(found.numpy(), starts.numpy(), counts.numpy(), 0, n, steps.numpy(), rays.numpy())
    begin, place = near_planes.index_select(0, rays), steps.to(near_planes)
    t_starts, t_ends = begin + place * step_size, begin + (place + 1) * step_size
    return Samples(t_starts, t_ends, rays, torch.stack([starts, counts], dim=-1))
