"""What an edited image is measured by."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ids3d.metrics import (
    ClipScore,
    Lpips,
    changed_region_iou,
    directional_similarity,
    edit_strength,
    psnr,
    ssim,
)


@dataclass(frozen=True)
class ImageMetrics:
    """The networks that an edited image is measured by, and all its figures."""

    clip: ClipScore
    lpips: Lpips

    def measure(
        self,
        source: Tensor,
        edited: Tensor,
        captions: tuple[str, str],
        truth: Tensor | None,
        mask: Tensor | None,
    ) -> dict[str, float]:
        """Return the figures of an edit, by name; those that are not defined are left out.

        Args:
            source, edited: (h, w, 3) in [0, 1].
            captions: (source, target).
            truth: the true edit, (h, w, 3) in [0, 1]; None if it is not known.
            mask: (h, w) bool, what the true edit touches; None if it is not known.
        """
        figures = {"psnr_to_source": psnr(edited, source), "ssim_to_source": ssim(edited, source)}
        if truth is not None:
            figures |= {"psnr": psnr(edited, truth), "strength": edit_strength(source, edited, truth, mask)}
            if mask is not None:
                figures |= {
                    "psnr_inside": psnr(edited, truth, mask),
                    "psnr_outside": psnr(edited, truth, ~mask),
                    "iou": changed_region_iou(source, edited, mask),
                }
        edited_first, source_first = (image.permute(2, 0, 1)[None] for image in (edited, source))
        figures["lpips_to_source"] = float(self.lpips(edited_first, source_first))
        if mask is not None:
            figures["lpips_outside"] = float(self.lpips(edited_first, source_first, ~mask[None]))
        figures["clip_score"] = float(self.clip(edited_first, [captions[1]]))
        figures["clip_direction"] = directional_similarity(self.clip, source, edited, captions)
        return {name: value for name, value in figures.items() if math.isfinite(value)}
