"""What is said of a reconstruction, against renders whose error is known."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from ids3d.cameras import Views, pinhole
from ids3d.models.renderers.protocol import Render
from ids3d.systems.reconstruct.quality import evenly, relative_depth_error, view_psnr, warn_of_poor


class Grey:
    def render(self, camera: Any) -> Render:
        shape = (camera.height, camera.width)
        return Render(torch.full((*shape, 3), 0.5), torch.ones(shape), torch.ones(shape))


def test_the_psnr_of_views_is_the_mean_over_those_asked_for_and_what_is_known_of_them() -> None:
    c2w = torch.eye(3, 4).expand(3, 3, 4)
    images = torch.full((3, 4, 6, 3), 0.5)
    images[0] += 0.1  # 20 dB
    images[1, :, :3] += 0.01  # 40 dB where it is known
    images[1, :, 3:] = 1.0
    images[2] = 0.0
    known = torch.ones(3, 4, 6, dtype=torch.bool)
    known[1, :, 3:] = False
    views = Views(images, pinhole(c2w, 4, 6, 50.0), ["a", "b", "c"], known=known)
    found = view_psnr(Grey(), views, [0, 1], torch.device("cpu"), "views")  # type: ignore[arg-type]
    assert found == pytest.approx(30.0, abs=1e-3)


def test_the_error_of_depth_is_a_share_of_the_scenes_size() -> None:
    """A wall straight ahead, whose depth along each ray and width in front of each camera are known by hand."""
    cameras = pinhole(torch.eye(3, 4).expand(2, 3, 4), 4, 6, 50.0)
    rays = cameras.rays()
    away = 3.0 / -rays.directions[..., 2]  # a wall at z = -3
    width = 3.0 * 5 / float(cameras.fx[0])  # from the first pixel's middle to the last one's
    views = Views(torch.zeros(2, 4, 6, 3), cameras, ["a", "b"])

    class Wall(Grey):
        off = (0.03, -0.01)

        def render(self, camera: Any) -> Render:
            seen = super().render(camera)
            self.off = self.off[::-1]
            return Render(seen.rgb, away[0] + self.off[0], seen.opacity)

    found = relative_depth_error(Wall(), views, away, torch.device("cpu"))  # type: ignore[arg-type]
    assert found == pytest.approx(0.02 / width, rel=1e-4)


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [0]), (3, [0, 1, 2]), (8, [1, 3, 5, 7])])
def test_views_to_look_at_are_spread_evenly(count: int, expected: list[int]) -> None:
    assert evenly(count) == expected


@pytest.mark.parametrize(
    ("held_out", "training", "said"),
    [
        (15.0, 16.0, "is a blur: 16.0 dB"),
        (15.7, 22.8, "does not hold from elsewhere: 22.8 dB over its own photographs, 15.7"),
        (24.0, 30.0, "does not hold from elsewhere"),
        (28.0, 30.0, ""),
        (float("nan"), 30.0, ""),  # nothing is held out
    ],
)
def test_what_is_poor_is_said(
    caplog: pytest.LogCaptureFixture, held_out: float, training: float, said: str
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_poor(held_out, training)
    assert said in caplog.text if said else caplog.text == ""
