"""What changed, by hand; views of true tabletop scenes, which agree until one of them is repainted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ids3d.metrics import (
    ClipScore,
    changed_region_iou,
    depth_error,
    directional_similarity,
    edit_strength,
    view_consistency,
)
from ids3d.tabletop.edits import held_out_edit, render_edit
from ids3d.tabletop.evaluate import PRIOR
from ids3d.tabletop.scene import orbit

SOURCE = torch.full((4, 5, 3), 0.2)


def test_iou_by_hand() -> None:
    edited, mask = SOURCE.clone(), torch.zeros(4, 5, dtype=torch.bool)
    edited[0, :4] += 0.5  # four pixels changed
    edited[1, 0] += 0.05  # too little to count
    mask[0, 2:], mask[1, 2] = True, True  # four should have: two of them did
    assert changed_region_iou(SOURCE, edited, mask) == pytest.approx(2 / 6)
    nothing = torch.zeros_like(mask)
    assert math.isnan(changed_region_iou(SOURCE, SOURCE, nothing))
    assert changed_region_iou(SOURCE, SOURCE, mask) == 0 and changed_region_iou(SOURCE, edited, nothing) == 0
    assert changed_region_iou(SOURCE[:1, :1], 1 - SOURCE[:1, :1], mask[:1, 2:3]) == 1.0
    with pytest.raises(ValueError, match="one shape"):
        changed_region_iou(SOURCE, edited[:2], mask)


def test_strength_by_hand() -> None:
    truth = SOURCE + torch.tensor([0.6, 0.0, 0.0])
    assert edit_strength(SOURCE, SOURCE, truth) == 0
    assert edit_strength(SOURCE, truth, truth) == pytest.approx(1.0)
    assert edit_strength(SOURCE, SOURCE + torch.tensor([0.3, 0.0, 0.0]), truth) == pytest.approx(0.5)
    assert edit_strength(SOURCE, SOURCE + torch.tensor([0.0, 0.5, 0.0]), truth) == pytest.approx(0.0)
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[0] = True
    half = torch.where(mask[..., None], truth, SOURCE)
    assert edit_strength(SOURCE, half, truth, mask) == pytest.approx(1.0)
    assert edit_strength(SOURCE, half, truth) == pytest.approx(0.25)
    assert math.isnan(edit_strength(SOURCE, truth, SOURCE))


def test_directional_similarity_by_hand() -> None:
    clip = ClipScore(PRIOR / "clip")
    edit = held_out_edit(0, ("recolour",))
    view = render_edit(edit, orbit([30.0], [30.0], [2.4], 64))
    captions = (edit.source, edit.target)
    rows = [clip.embed_pictures(p.rgb.permute(2, 0, 1)[None])[0].numpy() for p in (view.before, view.after)]
    texts = clip.embed_captions(captions).numpy()
    a, b = rows[1] - rows[0], texts[1] - texts[0]
    expected = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    true = directional_similarity(clip, view.before.rgb, view.after.rgb, captions)
    assert true == pytest.approx(expected, abs=1e-4) and true > 0.3
    back = directional_similarity(clip, view.after.rgb, view.before.rgb, captions)
    assert back == pytest.approx(-true, abs=1e-4)
    assert math.isnan(directional_similarity(clip, view.before.rgb, view.before.rgb, captions))


def test_depth_error_by_hand() -> None:
    truth = torch.tensor([[2.0, 4.0], [0.0, 1.0]])
    depth = torch.tensor([[2.5, 3.0], [9.0, 1.0]])
    assert depth_error(depth, truth) == pytest.approx((0.5, (0.25 + 0.25 + 0) / 3))
    assert depth_error(depth, truth, torch.tensor([[True, False], [True, False]])) == pytest.approx(
        (0.5, 0.25)
    )
    assert all(math.isnan(x) for x in depth_error(depth, truth, torch.zeros(2, 2, dtype=torch.bool)))
    with pytest.raises(ValueError, match="one shape"):
        depth_error(depth, truth[:1])


def test_true_views_agree_and_a_repainted_one_does_not() -> None:
    edit = held_out_edit(3, ("recolour",), objects=1)
    cameras = orbit([20.0, 45.0], [30.0, 35.0], [2.4, 2.5], 96)
    first, second = (render_edit(edit, cameras[i]) for i in range(2))
    before = [(cameras[i], v.before.rgb, v.before.depth) for i, v in enumerate((first, second))]
    repainted = (cameras[1], second.after.rgb, second.after.depth)
    agrees, shared = view_consistency(before[0], before[1])
    assert agrees > 20 and 0.5 < shared < 1
    inside, some = view_consistency(before[0], before[1], first.mask)
    differs, _ = view_consistency(before[0], repainted, first.mask)
    assert some > 0.3 and differs < inside - 5
    same, all_of_it = view_consistency(before[0], before[0])
    assert same > 40 and all_of_it > 0.95
    away = orbit([20.0], [30.0], [2.4], 96, [(100.0, 100.0, 100.0)])
    none, nothing = view_consistency(before[0], (away, second.before.rgb, second.before.depth))
    assert math.isnan(none) and nothing == 0
