"""Volume rendering of packed samples: from densities to weights, from weights to pixels.

With density σ_i in the interval i of length δ_i (Max 1995; Mildenhall et al. 2020, equation 3):

    α_i = 1 - exp(-σ_i δ_i)        T_i = exp(-Σ_{j<i} σ_j δ_j)        w_i = T_i α_i

See `ids3d.rendering.scan` for what packed means. On CUDA these are nerfacc's own functions.
"""

from __future__ import annotations

import nerfacc
import torch
from torch import Tensor

from ids3d.rendering.scan import exclusive_sum


def transmittance_from_density(
    t_starts: Tensor, t_ends: Tensor, densities: Tensor, packed_info: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the transmittance up to each sample, and the sample's opacity.

    Args:
        t_starts, t_ends: (n_samples,) distances along the rays, world units.
        densities: (n_samples,) >= 0, one over world units.
        packed_info: (n_rays, 2) int64.

    Returns:
        transmittance T and opacity α, both (n_samples,) in [0, 1]. Differentiable in `densities`.
    """
    if densities.is_cuda:
        return nerfacc.render_transmittance_from_density(t_starts, t_ends, densities, packed_info)
    thickness = densities * (t_ends - t_starts)
    return torch.exp(-exclusive_sum(thickness, packed_info)), -torch.expm1(-thickness)


def weights_from_density(
    t_starts: Tensor, t_ends: Tensor, densities: Tensor, packed_info: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rendering weights w, with transmittance T and opacity α, each (n_samples,) in [0, 1].

    Arguments and differentiability as for `transmittance_from_density`.
    """
    transmittance, alphas = transmittance_from_density(t_starts, t_ends, densities, packed_info)
    return transmittance * alphas, transmittance, alphas


@torch.no_grad()
def visible(
    t_starts: Tensor,
    t_ends: Tensor,
    densities: Tensor,
    packed_info: Tensor,
    early_stop_eps: float = 1e-4,
    alpha_threshold: float = 0.0,
) -> Tensor:
    """Tell which samples can be seen: T >= early_stop_eps and α >= alpha_threshold. (n_samples,) bool, no gradient.

    Arguments as for `transmittance_from_density`.
    """
    if densities.is_cuda:
        return nerfacc.render_visibility_from_density(
            t_starts,
            t_ends,
            densities,
            packed_info=packed_info,
            early_stop_eps=early_stop_eps,
            alpha_thre=alpha_threshold,
        )
    transmittance, alphas = transmittance_from_density(t_starts, t_ends, densities, packed_info)
    return (transmittance >= early_stop_eps) & (alphas >= alpha_threshold)


def accumulate_along_rays(weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
    """Return Σ_i w_i v_i over each ray's samples.

    Args:
        weights: (n_samples,).
        values: (n_samples, d); None stands for ones, d = 1.
        ray_indices: (n_samples,) int64 in [0, n_rays).
        n_rays: number of rays, including those without a sample (their result is 0).

    Returns:
        (n_rays, d). Differentiable in `weights` and `values`.
    """
    # Plain PyTorch within nerfacc (one index_add_), so it serves every device.
    return nerfacc.accumulate_along_rays(weights, values, ray_indices, n_rays)
