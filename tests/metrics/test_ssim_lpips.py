"""SSIM against scikit-image; LPIPS's formula against a loop in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from ids3d.errors import UserError
from ids3d.metrics import ClipLpips, ClipScore, PackagedLpips, ssim
from ids3d.tabletop.evaluate import PRIOR


def images(seed: int = 0, size: tuple[int, int] = (24, 31)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(*size, 3, generator=generator)
    return a, (a + 0.2 * torch.randn(*size, 3, generator=generator)).clamp(0, 1)


def test_ssim_is_scikit_images() -> None:
    a, b = images()
    value, full = structural_similarity(
        a.numpy(),
        b.numpy(),
        data_range=1.0,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert ssim(a, b) == pytest.approx(value, abs=1e-4)
    mask = torch.zeros(24, 31, dtype=torch.bool)
    mask[8:14, 9:20] = True  # away from the border, where the two extend the image differently
    assert ssim(a, b, mask) == pytest.approx(full.mean(-1)[mask.numpy()].mean(), abs=1e-4)


def test_ssim_at_its_edges() -> None:
    a, b = images()
    assert ssim(a, a) == pytest.approx(1.0, abs=1e-5)
    flat = torch.full((12, 12, 3), 0.3)
    assert ssim(flat, flat) == pytest.approx(1.0, abs=1e-5)
    assert math.isnan(ssim(a, b, torch.zeros(24, 31, dtype=torch.bool)))
    with pytest.raises(ValueError, match="11 pixels or more"):
        ssim(a[:1, :1], b[:1, :1])
    with pytest.raises(ValueError, match="one shape"):
        ssim(a, b[:20])
    with pytest.raises(ValueError, match="does not fit"):
        ssim(a, b, torch.zeros(3, 3, dtype=torch.bool))


@pytest.fixture(scope="module")
def tabletop() -> ClipLpips:
    return ClipLpips(ClipScore(PRIOR / "clip"))


def test_the_formula_by_hand(tabletop: ClipLpips) -> None:
    a, b = (x.permute(2, 0, 1)[None] for x in images(1, (128, 128)))
    model = tabletop.clip.model.vision_model
    layers = [model(pixel_values=2 * x - 1, output_hidden_states=True).hidden_states[1:] for x in (a, b)]
    total = 0.0
    for first, second in zip(*layers, strict=True):
        x, y = first[0, 1:].numpy().astype(np.float64), second[0, 1:].numpy().astype(np.float64)
        for i in range(len(x)):
            total += ((x[i] / np.linalg.norm(x[i]) - y[i] / np.linalg.norm(y[i])) ** 2).sum() / len(x)
    assert float(tabletop(a, b)) == pytest.approx(total / len(layers[0]), rel=1e-3)


def test_masks_and_edges(tabletop: ClipLpips) -> None:
    a, b = (x.permute(2, 0, 1)[None].repeat(3, 1, 1, 1) for x in images(2, (64, 64)))
    b[:, :, :, 24:] = a[:, :, :, 24:]  # different in the left part only
    left = torch.zeros(3, 64, 64, dtype=torch.bool)
    left[:, :, :16] = True
    masks = torch.stack([left[0], ~left[0], torch.zeros(64, 64, dtype=torch.bool)])
    inside, outside, empty = tabletop(a, b, masks).tolist()
    assert inside > 2 * outside > 0 and math.isnan(empty)
    assert tabletop(a, a).abs().max() == 0
    full = tabletop(a, b, torch.ones(3, 64, 64, dtype=torch.bool))
    torch.testing.assert_close(full, tabletop(a, b))
    wide = torch.rand(1, 3, 20, 40, generator=torch.Generator().manual_seed(0))
    assert float(tabletop(wide, 1 - wide)) > 0
    with pytest.raises(ValueError, match="one shape"):
        tabletop(a, b[:1])
    with pytest.raises(ValueError, match="does not fit"):
        tabletop(a, b, masks[:, :2])


def test_what_is_not_installed_is_one_line() -> None:
    for kind in ("alex", "shift-tolerant"):
        try:
            provider = PackagedLpips(kind)  # type: ignore[arg-type]
        except UserError as error:
            assert "pip install -e '.[lpips]'" in str(error) or "downloaded" in str(error)
        else:
            a, b = (x.permute(2, 0, 1)[None] for x in images(3, (64, 64)))
            assert float(provider(a, a)) == pytest.approx(0, abs=1e-6) and float(provider(a, b)) > 0
