"""The edited images that a field is fitted to, and the pixels that are drawn of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ids3d.systems.edit_scene.region import Region
from ids3d.systems.edit_scene.targets import FADED, TINT, EditedImages, edited_opacity, fading

N, H, W = 2, 3, 4


def some_change() -> Tensor:
    """(n, 3, h, w): nothing in the first row, a little in the second, much in the third."""
    change = torch.zeros(N, 3, H, W)
    change[:, 1, 1] = -0.04
    change[:, 2, 2] = 0.36
    return change


def images_of(region: Region | None = None) -> EditedImages:
    change = some_change()
    return EditedImages.of(change, torch.zeros(N, 1, H, W), torch.zeros_like(change), region)


def shares(pixels: Tensor) -> Tensor:
    return torch.bincount(pixels, minlength=N * H * W).view(N, H, W) / len(pixels)


@pytest.mark.parametrize("changed", [0.0, 0.25, 1.0])
def test_pixels_are_drawn_by_the_root_of_what_changes_and_anywhere(changed: float) -> None:
    pixels, others = images_of().pixels(200_000, changed, torch.Generator().manual_seed(0))
    by_change = torch.tensor([0.0, 0.2, 0.6])[:, None].expand(N, H, W)
    expected = (1 - changed) / (N * H * W) + changed * by_change / by_change.sum()
    assert others is None and len(pixels) == 200_000
    torch.testing.assert_close(shares(pixels), expected, rtol=0.05, atol=1e-4)
    assert (shares(pixels)[expected == 0] == 0).all()


def test_only_where_something_else_is_put_is_faint_gradient_followed() -> None:
    tinted = images_of()
    assert tinted.faint(1000) == 2 * tinted.faint(2000) > 0
    change, decoded = some_change(), torch.zeros(N, 3, H, W)
    replaced = EditedImages.of(change, fading(change), decoded, None)
    assert 0 < replaced.faint(1000) <= 1e-12
    nowhere = Region(torch.zeros(N, 1, 1, 1), torch.zeros(N, H, W))
    assert EditedImages.of(change, fading(change), decoded, nowhere).faint(1000) == tinted.faint(1000)


def test_where_nothing_changes_all_pixels_are_alike() -> None:
    change = torch.zeros(N, 3, H, W)
    images = EditedImages.of(change, change[:, :1], change, None)
    pixels, _ = images.pixels(100_000, 1.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(shares(pixels), torch.full((N, H, W), 1 / (N * H * W)), rtol=0.1, atol=0)


def test_of_a_region_half_of_the_pixels_are_drawn_from_within() -> None:
    weights = torch.zeros(N, H, W)
    weights[:, 1:, :2] = 0.5
    images = images_of(Region(torch.ones(N, 1, 1, 1), weights))
    pixels, others = images.pixels(100_001, 0.5, torch.Generator().manual_seed(0))
    assert others is not None and len(pixels) == len(others) == 50_001
    inside, outside = shares(pixels), shares(others)
    assert (inside[weights == 0] == 0).all() and (outside[weights > 0] == 0).all()
    torch.testing.assert_close(inside[:, 1, :2].sum(), torch.tensor(0.25 + 0.125), rtol=0.03, atol=0)
    torch.testing.assert_close(outside[:, 0], torch.full((N, W), 1 / 16), rtol=0.1, atol=0)


def test_a_region_of_all_pixels_has_none_outside() -> None:
    images = images_of(Region(torch.ones(N, 1, 1, 1), torch.ones(N, H, W)))
    assert images.pixels(10, 0.5, torch.Generator())[1] is None


def test_details_that_the_prior_loses_go_where_something_else_is_put() -> None:
    """Where much changes the edited image is the decoded one; where little does it is the photograph, tinted."""
    generator = torch.Generator().manual_seed(1)
    photographs, decoded = torch.rand(2, N, 3, H, W, generator=generator).unbind()
    change = some_change()
    images = EditedImages.of(change, fading(change), decoded, None)
    edited = (images.kept * photographs.permute(0, 2, 3, 1) + images.added).permute(0, 3, 1, 2)
    torch.testing.assert_close(edited[:, :, :2], (photographs + change)[:, :, :2])
    torch.testing.assert_close(edited[:, :, 2], (decoded + change)[:, :, 2])

    middle = torch.full((1, 3, 1, 1), -(TINT + FADED) / 2)
    torch.testing.assert_close(fading(middle), torch.full((1, 1, 1, 1), 0.5))

    half = Region(torch.ones(N, 1, 1, 1), torch.full((N, H, W), 0.5))
    images = EditedImages.of(change, fading(change), decoded, half)
    blended = (images.kept * photographs.permute(0, 2, 3, 1) + images.added).permute(0, 3, 1, 2)
    torch.testing.assert_close(blended[:, :, [0, 2]], ((photographs + edited) / 2)[:, :, [0, 2]])
    torch.testing.assert_close(blended[:, :, 1], (photographs + change / 2)[:, :, 1])


def test_an_edited_cut_out_grows_by_what_differs_from_the_background_and_gets_no_holes() -> None:
    white, red = torch.ones(3), torch.tensor([0.8, 0.1, 0.1])
    known = torch.tensor([0.0, 0.5, 1.0])
    for edited, shown in ((white, 0.0), (red, 1.0), (white - (TINT + FADED) / 2, 0.5)):
        for kept in (0.0, 0.5, 1.0):
            put = shown * (1 - kept)
            found = edited_opacity(known, torch.full((3, 1), kept), edited.expand(3, 3), (1.0, 1.0, 1.0))
            torch.testing.assert_close(found, torch.tensor([put, 0.5 + put / 2, 1.0]))
