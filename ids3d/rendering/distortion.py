"""The distortion loss: how far a ray's weight is spread out, which clear surfaces keep small."""

from __future__ import annotations

from torch import Tensor

from ids3d.rendering.samples import Samples
from ids3d.rendering.scan import exclusive_sum


def distortion(weights: Tensor, samples: Samples) -> Tensor:
    """Return Mip-NeRF 360's distortion of each ray's weights (Barron et al. 2022, arXiv 2111.12077, equation 15).

        Σ_ij w_i w_j |m_i − m_j|  +  1/3 Σ_i w_i² δ_i        m: midpoints, δ: lengths of the samples

    The double sum is twice that over j < i, where m_i ≥ m_j, so two running sums give it in linear time. It is 0 for a
    ray that sees one point and largest for a ray whose weight is half at its start and half at its end.

    Args:
        weights: (n_samples,), rendering weights.
        samples: of n_rays rays, packed.

    Returns:
        (n_rays,) world units; 0 for a ray without samples. Differentiable in `weights`.
    """
    middle, length = samples.midpoints, samples.t_ends - samples.t_starts
    before = exclusive_sum(weights, samples.packed_info)
    moment = exclusive_sum(weights * middle, samples.packed_info)
    each = 2 * weights * (middle * before - moment) + weights.square() * length / 3
    return each.new_zeros(len(samples.packed_info)).index_add(0, samples.ray_indices, each)
