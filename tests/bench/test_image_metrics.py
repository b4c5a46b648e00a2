"""Figures of an edit whose values can be said beforehand."""

from __future__ import annotations

import pytest
import torch

from ids3d.bench.image_metrics import ImageMetrics
from ids3d.metrics import ClipLpips, ClipScore
from ids3d.systems.evaluate.held_out import TABLETOP_CLIP

CAPTIONS = ("a red cube", "a blue cube")


@pytest.fixture(scope="module")
def metrics() -> ImageMetrics:
    clip = ClipScore(TABLETOP_CLIP)
    return ImageMetrics(clip, ClipLpips(clip, "tabletop"))


def test_half_of_the_true_edit_and_a_slip_outside(metrics: ImageMetrics) -> None:
    """Inside the mask half of a change by 0.8 is made, outside everything moves by 0.1."""
    source = torch.full((64, 64, 3), 0.1)
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:48, 16:48] = True
    truth = torch.where(mask[..., None], 0.9, source)
    edited = torch.where(mask[..., None], 0.5, torch.full_like(source, 0.2))
    figures = metrics.measure(source, edited, CAPTIONS, truth, mask)
    assert figures["strength"] == pytest.approx(0.5)
    assert figures["psnr_inside"] == pytest.approx(-20 * torch.log10(torch.tensor(0.4)).item(), abs=1e-4)
    assert figures["psnr_outside"] == pytest.approx(20.0, abs=1e-4)
    everywhere = -10 * torch.log10(torch.tensor(0.25 * 0.4**2 + 0.75 * 0.1**2)).item()
    assert figures["psnr"] == pytest.approx(everywhere, abs=1e-4)
    assert figures["psnr_to_source"] == pytest.approx(everywhere, abs=1e-4)
    assert figures["lpips_outside"] < figures["lpips_to_source"]


def test_without_truth_and_mask_only_what_needs_neither(metrics: ImageMetrics) -> None:
    image = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
    figures = metrics.measure(image, image, CAPTIONS, None, None)
    # The PSNR to the source is infinite, and no change has no direction.
    assert set(figures) <= {"ssim_to_source", "lpips_to_source", "clip_score", "clip_direction"}
    assert figures["ssim_to_source"] == pytest.approx(1.0) and figures["lpips_to_source"] == 0.0


def test_the_clip_score_is_of_the_target(metrics: ImageMetrics) -> None:
    image = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
    scores = [
        metrics.measure(image, image, pair, None, None)["clip_score"] for pair in (CAPTIONS, CAPTIONS[::-1])
    ]
    expected = [float(metrics.clip(image.permute(2, 0, 1)[None], [text])) for text in CAPTIONS[::-1]]
    assert scores == expected and scores[0] != scores[1]
