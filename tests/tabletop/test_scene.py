"""Scenes and cameras: the same from a seed everywhere, well placed, the held-out ones apart from training's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ids3d.cameras import Cameras, project
from ids3d.tabletop.scene import (
    HEIGHT,
    HELD_OUT,
    ROOM,
    Light,
    Object,
    PortableRandom,
    TabletopScene,
    around_cameras,
    can_stand_beside,
    forward_cameras,
    middle,
    open_side,
    sample_camera,
    sample_scene,
    smallest_gap,
)


def test_dice_are_the_same_on_every_machine() -> None:
    rng = PortableRandom(7, "test")
    assert [rng.uniform(0, 1) for _ in range(3)] == [
        0.723454925441713,
        0.7833280355364245,
        0.13301354156809364,
    ]
    assert rng.choice(range(1000)) == 437
    assert PortableRandom(7, "other").uniform(0, 1) != 0.723454925441713


def test_a_seed_gives_the_same_scene_on_every_machine() -> None:
    scene = sample_scene(12345)
    assert [(thing.shape, thing.colour) for thing in scene.objects] == [("cone", "red"), ("cone", "orange")]
    assert (scene.floor, scene.wall) == ("pink", "ice")
    numbers = [n for o in scene.objects for n in (o.size, o.x, o.y, o.turn)]
    numbers += [scene.light.azimuth, scene.light.elevation, scene.light.strength]
    expected = [0.30167526293655733, -0.16751516706537598, 0.48684272712600923, -7.102481208207589]
    expected += [0.30734461005257446, -0.13893968930579464, -0.48714021257427076, -6.743566745015652]
    expected += [173.26582736028467, 58.609496176368374, 1.0672520009461959]
    assert numbers == pytest.approx(expected, rel=1e-12)
    camera = sample_camera(0, sample_scene(0))
    assert camera.centres[0].tolist() == pytest.approx([-0.6836, 1.6800, 1.7311], abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2 * HELD_OUT), count=st.sampled_from([None, 1, 2, 3]))
def test_objects_stand_apart_in_the_room(seed: int, count: int | None) -> None:
    scene = sample_scene(seed, count)
    assert len(scene.objects) == count if count else 1 <= len(scene.objects) <= 3
    for i, thing in enumerate(scene.objects):
        assert math.hypot(thing.x, thing.y) < 0.63
        assert all(can_stand_beside(thing, other) for other in scene.objects[:i])
    assert sample_scene(seed, count) == scene


def test_one_two_or_three_objects() -> None:
    counts = [len(sample_scene(seed).objects) for seed in range(2000)]
    shares = [counts.count(n) / 2000 for n in (1, 2, 3)]
    assert shares == pytest.approx([0.45, 0.45, 0.10], abs=0.03)
    with pytest.raises(ValueError, match="one to three"):
        sample_scene(0, 4)


def inside_the_room(cameras: Cameras) -> bool:
    x, y, z = cameras.centres.unbind(-1)
    return bool(((x.abs() < ROOM) & (y.abs() < ROOM) & (z > 0) & (z < HEIGHT)).all())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2 * HELD_OUT))
def test_cameras_stand_in_the_room_and_see_the_objects(seed: int) -> None:
    scene = sample_scene(seed)
    camera = sample_camera(seed, scene)
    forward = forward_cameras(seed, 6, 64, open_side(scene), 28.0, middle(scene))
    for cameras in (camera, forward, around_cameras(seed, 6, 64)):
        assert inside_the_room(cameras)
        centres = torch.tensor([[thing.x, thing.y, thing.size] for thing in scene.objects])
        xy, depth = project(cameras, centres)
        assert (depth > 0).all()
        assert ((xy > 0) & (xy < 64)).all()


def test_gap_and_open_side_by_hand() -> None:
    scene = TabletopScene((Object("cube", "red", 0.3, 0.0, -0.5), Object("cone", "blue", 0.2, 0.1, 0.5)))
    assert smallest_gap(scene, 0.0) == pytest.approx(1.0 / 0.5)
    assert smallest_gap(scene, 90.0) == pytest.approx(0.1 / 0.5)
    assert open_side(scene) == 0.0
    assert middle(scene) == pytest.approx((0.05, 0.0, 0.22))
    assert math.isinf(smallest_gap(TabletopScene(scene.objects[:1], light=Light()), 0.0))
