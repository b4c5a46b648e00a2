"""The error of a reconstruction's rays: before random backgrounds, and of the pixels that count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ids3d.cameras import Views
from ids3d.models.renderers.protocol import RayRender
from ids3d.rendering import Samples
from ids3d.scene import Scene
from ids3d.systems.reconstruct.rays import Reconstruct
from tests.toys.toy_scene import RedBall

WHITE = torch.ones(3)


class NoRenderer(torch.nn.Module):
    def refine(self, resolution: float) -> bool:
        return False


def error(views: Views, rgb: Tensor, opacity: Tensor, seed: int = 0) -> float:
    """Of all pixels of the first view, rendered as given: rgb (h, w, 3), opacity (h, w)."""
    scene = RedBall(RedBall.Config()).load()
    scene = replace(scene, train=views, bounds=replace(scene.bounds, background=(1.0, 1.0, 1.0)))
    system = Reconstruct(Reconstruct.Config(), NoRenderer(), scene, 0)  # type: ignore[arg-type]
    h, w = opacity.shape
    rows, cols = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    pixels = (torch.zeros(h * w, dtype=torch.long), rows.flatten(), cols.flatten())
    nothing = torch.empty(0)
    samples = Samples(
        nothing, nothing, torch.empty(0, dtype=torch.long), torch.zeros(h * w, 2, dtype=torch.long)
    )
    render = RayRender(rgb.reshape(-1, 3), nothing, opacity.flatten(), nothing, samples)
    return float(system._error(render, pixels, torch.Generator().manual_seed(seed)))


@pytest.fixture
def cut_out() -> tuple[Views, Tensor]:
    """Views of which a square is opaque and half of another one is, before white; and its opacity (h, w)."""
    scene: Scene = RedBall(RedBall.Config()).load()
    opacity = torch.zeros(scene.train.images.shape[:3])
    opacity[:, 3:8, 3:8], opacity[:, 10:14, 3:8] = 1.0, 0.5
    colour = torch.tensor([0.9, 0.2, 0.1])
    images = opacity[..., None] * colour + (1 - opacity[..., None]) * WHITE
    return replace(scene.train, images=images), opacity


def test_before_random_colours_only_the_right_opacity_fits(cut_out: tuple[Views, Tensor]) -> None:
    views, opacity = cut_out
    random = replace(views, opacity=opacity)
    right, white = opacity[0], torch.ones_like(opacity[0])
    assert error(random, views.images[0], right) < 1e-12
    # A white fog looks the same before white, and before nothing else: (1 - a)² E[(u - 1)²], u uniform.
    assert error(views, views.images[0], white) == 0
    expected = float((1 - right).square().mean()) / 3
    errors = [error(random, views.images[0], white, seed) for seed in range(20)]
    assert sum(errors) / 20 == pytest.approx(expected, rel=0.05)
    assert len(set(errors)) == 20 and error(random, views.images[0], white, 3) == errors[3]


def test_pixels_that_are_not_known_do_not_count(cut_out: tuple[Views, Tensor]) -> None:
    views, opacity = cut_out
    known = torch.ones(opacity.shape, dtype=torch.bool)
    known[:, :, :9] = False
    wrong = views.images[0].clone()
    wrong[:, :9] = 0.5
    full = torch.ones_like(opacity[0])
    masked = replace(views, known=known)
    assert error(views, wrong, full) > 0 and error(masked, wrong, full) == 0
    wrong[5, 12] += 0.3  # one of those that count: 16 rows of 7
    assert error(masked, wrong, full) == pytest.approx(0.09 / (16 * 7), rel=1e-5)
    nothing = replace(views, known=torch.zeros_like(known))
    assert error(nothing, wrong, full) == 0


def test_views_carry_both_along(cut_out: tuple[Views, Tensor]) -> None:
    views, opacity = cut_out
    both = replace(views, opacity=opacity, known=opacity > 0)
    some = both[torch.tensor([2, 0])].to("cpu")
    assert some.opacity is not None and some.known is not None and len(some.opacity) == len(some.known) == 2
    with pytest.raises(ValueError, match="does not fit images"):
        replace(views, opacity=opacity[:, 1:])
