"""What a camera set anew for each photograph: its exposure and its white balance."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Exposure(nn.Module):
    """A gain and offset of each photograph and colour, learned beside the field (Urban Radiance Fields, section 4.1).

    The field's own colours are those of the average photograph: the mean of the maps, of gains in the logarithm, is
    none. Held-out views are compared with these, whatever their own exposure was.

    Parameters:
        log_gain, offset: (photographs, 3), for red, green and blue; all 0 to begin with.
    """

    def __init__(self, photographs: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(photographs, 3))
        self.offset = nn.Parameter(torch.zeros(photographs, 3))

    def forward(self, rgb: Tensor, opacity: Tensor, photograph: Tensor) -> Tensor:
        """Return what rays show as each one's photograph has it; differentiable in all.

        Args:
            rgb: (n, 3), each times its opacity.
            opacity: (n,), 1 where the photograph is of all there is.
            photograph: (n,) its number.
        """
        gain, offset = self.maps()
        return gain[photograph] * rgb + offset[photograph] * opacity[:, None]

    def maps(self) -> tuple[Tensor, Tensor]:
        """Return gains and offsets (photographs, 3), whose means, of gains in the logarithm, are 1 and 0."""
        return (self.log_gain - self.log_gain.mean(dim=0)).exp(), self.offset - self.offset.mean(dim=0)
