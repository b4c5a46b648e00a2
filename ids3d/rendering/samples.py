"""The samples of many rays, packed in flat tensors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ids3d.rendering.scan import pack_info


@dataclass(frozen=True)
class Samples:
    """Samples of n_rays rays, packed: ray after ray, near to far within a ray.

    Attributes:
        t_starts, t_ends: (n_samples,) distances along the rays, world units.
        ray_indices: (n_samples,) int64, non-decreasing.
        packed_info: (n_rays, 2) int64, each ray's first sample and its number of samples.
    """

    t_starts: Tensor
    t_ends: Tensor
    ray_indices: Tensor
    packed_info: Tensor

    def __len__(self) -> int:
        return len(self.t_starts)

    @property
    def midpoints(self) -> Tensor:
        """(n_samples,) distances along the rays, world units."""
        return (self.t_starts + self.t_ends) / 2

    def where(self, mask: Tensor) -> Samples:
        """Return the samples that the mask (n_samples,) keeps."""
        kept = mask.nonzero()[:, 0]
        return packed(self.t_starts[kept], self.t_ends[kept], self.ray_indices[kept], len(self.packed_info))


def packed(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor, n_rays: int) -> Samples:
    """Make Samples from their distances and their rays (n_samples,), in packed order already."""
    return Samples(t_starts, t_ends, ray_indices, pack_info(ray_indices, n_rays))
