"""The box of an object that is cut out: around the object as it is known to be, and hardly larger."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ids3d.cameras import Cameras, look_at, pinhole
from ids3d.data.scenes.blender import Blender
from ids3d.data.scenes.silhouettes import hull_box
from tests.data.scenes.json_scene import frame, save

CUBE = torch.tensor([-2.0, -2.0, -2.0, 2.0, 2.0, 2.0])
CENTRE, RADII = torch.tensor([0.3, -0.2, 0.1]), torch.tensor([0.9, 0.4, 0.6])


def around(n: int = 24, side: int = 80) -> Cameras:
    """Cameras all around the origin, at heights of both signs, which see the whole cube's middle."""
    turn = torch.arange(n) * (math.pi * (3 - 5**0.5))
    height = torch.linspace(-0.8, 0.8, n)
    ring = (1 - height**2).sqrt()
    eyes = 5 * torch.stack([ring * turn.cos(), height, ring * turn.sin()], dim=-1)
    poses = look_at(eyes, torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
    return pinhole(poses, side, side, 45.0)


def ellipsoid(cameras: Cameras) -> Tensor:
    """Its silhouettes (n, h, w) as rays meet it, 1 or 0."""
    rays = cameras.rays()
    o, d = (rays.origins - CENTRE) / RADII, rays.directions / RADII
    b, a, c = (o * d).sum(-1), d.square().sum(-1), o.square().sum(-1) - 1
    return (b**2 > a * c).float()


def test_the_box_is_that_of_the_object() -> None:
    cameras = around()
    box = hull_box(CUBE, cameras, ellipsoid(cameras))
    assert box is not None
    true = torch.cat([CENTRE - RADII, CENTRE + RADII])
    wider = torch.cat([true[:3] - box[:3], box[3:] - true[3:]])
    assert wider.min() >= 0 and wider.max() < 0.3, wider


def test_what_no_image_holds_is_not_known_to_be_empty() -> None:
    """Empty images of all of it leave nothing; those of cameras that look away, everything."""
    cameras = around()
    blind = torch.zeros_like(ellipsoid(cameras))
    assert hull_box(CUBE, cameras, blind) is None
    away = pinhole(cameras.c2w[:4] * torch.tensor([-1.0, 1, -1, 1]), 80, 80, 45.0)
    torch.testing.assert_close(hull_box(CUBE, away, blind[:4]), CUBE)


@pytest.mark.parametrize("cut_out", [True, False])
def test_a_scene_cut_out_gets_it(tmp_path: Path, cut_out: bool) -> None:
    cameras = around()
    shown = ellipsoid(cameras)
    for split, chosen in {"train": range(0, 24, 2), "test": range(1, 24, 8)}.items():
        (tmp_path / split).mkdir()
        for i in chosen:
            alpha = (255 * shown[i]).byte().numpy() if cut_out else (255 * torch.ones(80, 80)).byte().numpy()
            image = Image.new("RGBA", (80, 80), (200, 100, 0, 255))
            image.putalpha(Image.fromarray(alpha))
            image.save(tmp_path / split / f"r_{i}.png")
        angle = 2 * math.atan(40 / float(cameras.fx[0]))
        frames = [frame(cameras.c2w[i], f"./{split}/r_{i}") for i in chosen]
        save(tmp_path, {"camera_angle_x": angle, "frames": frames}, f"transforms_{split}.json")
    scene = Blender(Blender.Config(root=str(tmp_path))).load()
    corners = torch.cartesian_prod(*torch.stack([CENTRE - RADII, CENTRE + RADII]).T)
    held = scene.to_scene.apply(corners.double()).float()
    low, high = scene.bounds.aabb[:3], scene.bounds.aabb[3:]
    assert bool((held >= low).all()) and bool((held <= high).all())
    smaller = float((high - low).prod()) < 3 * float((held.amax(0) - held.amin(0)).prod())
    assert smaller == cut_out
    core = scene.bounds.core
    assert core is not None and bool((core[:3] >= low).all() and (core[3:] <= high).all())
