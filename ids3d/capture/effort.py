"""How hard to look for features and cameras: quickly, and thoroughly where that does not do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Settings of COLMAP that differ between a quick and a thorough search.

    Attributes:
        name: of the folder of its stages.
        affine: features with their affine shape, described over several scales (domain-size pooling): about ten
            times as slow, and matched over larger changes of the point of view.
        peak_threshold: contrast of the weakest features.
        guided: match once more along the epipolar lines found.
        max_ratio: distance of the best to the second best descriptor.
        init_inliers, init_angle: of the two pictures to begin with: matches at least, and degrees between their rays.
        pose_inliers: points, at least, that hold a picture that is added.
    """

    name: str
    affine: bool
    peak_threshold: float
    guided: bool
    max_ratio: float
    init_inliers: int
    init_angle: float
    pose_inliers: int


# COLMAP's own settings. Then what shiny or plain things, few pixels and large steps need: of forty pictures of 456x456
# around a gold cape, the first registers 10 and the second 39.
EFFORTS = (
    Effort("quick", False, 0.02 / 3, False, 0.8, 100, 16.0, 30),
    Effort("thorough", True, 0.005 / 3, True, 0.85, 50, 8.0, 15),
)
ENOUGH = 0.9
"""Share of the pictures that must be registered for the first effort to do."""
