"""What an edit changed, and where: its region against the true one, its amount, and its direction in CLIP's space."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ids3d.metrics.clip_score import ClipScore

THRESHOLD = 0.1
"""A pixel has changed where its colours differ by more than this, on average over the channels, of [0, 1]."""


def changed_region_iou(source: Tensor, edited: Tensor, mask: Tensor, threshold: float = THRESHOLD) -> float:
    """Return the intersection over union of the pixels that changed and those that should have.

    Args:
        source, edited: (h, w, 3) in [0, 1].
        mask: (h, w) bool, the true region.
        threshold: of the mean absolute difference of a pixel's channels.

    Returns:
        0 to 1; nan where nothing changed and nothing should have.

    Raises:
        ValueError: the shapes disagree.
    """
    _check_same_shape(source, edited)
    if mask.shape != source.shape[:2]:
        raise ValueError(f"mask {tuple(mask.shape)} does not fit an image {tuple(source.shape)}")
    changed = (source - edited).abs().mean(-1) > threshold
    union = int((changed | mask).sum())
    return int((changed & mask).sum()) / union if union else math.nan


def edit_strength(source: Tensor, edited: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Return how much of the true change was made: ⟨edited − source, truth − source⟩ / ‖truth − source‖².

    0 where nothing was done, 1 for the true edit; a change in another direction counts for nothing.

    Args:
        source, edited, truth: (h, w, 3).
        mask: (h, w) bool, where to look; None = everywhere.

    Returns:
        a share, which may be negative or above 1; nan where the true edit changes nothing.
    """
    _check_same_shape(source, edited)
    _check_same_shape(source, truth)
    done, due = edited - source, truth - source
    if mask is not None:
        done, due = done[mask], due[mask]
    whole = float(due.square().sum())
    return float((done * due).sum()) / whole if whole > 0 else math.nan


@torch.no_grad()
def directional_similarity(
    clip: ClipScore, source: Tensor, edited: Tensor, captions: tuple[str, str]
) -> float:
    """Return cos(E(edited) − E(source), T(target) − T(source)): whether the image changed as the captions do.

    Gal et al. 2021 (StyleGAN-NADA, arXiv 2108.00946), equation 2; E and T are CLIP's unit embeddings.

    Args:
        source, edited: (h, w, 3) in [0, 1].
        captions: (source, target).

    Returns:
        -1 to 1; nan where image or caption did not change.
    """
    _check_same_shape(source, edited)
    seen = clip.embed_pictures(torch.stack([source, edited]).permute(0, 3, 1, 2))
    read = clip.embed_captions(list(captions))
    change, wanted = seen[1] - seen[0], read[1] - read[0]
    if float(change.norm()) < 1e-6 or float(wanted.norm()) < 1e-6:
        return math.nan
    return float(F.cosine_similarity(change, wanted, dim=0))


def _check_same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"images {tuple(a.shape)} and {tuple(b.shape)} must have one shape")
