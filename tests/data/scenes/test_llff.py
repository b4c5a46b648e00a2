"""LLFF folders written from known cameras and read back; what is wrong with a folder is one line."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ids3d.cameras import Cameras, project
from ids3d.data.scenes.llff import LLFF
from ids3d.errors import UserError
from ids3d.registry import find
from ids3d.scene import Scene
from tests.data.scenes.llff_folder import FULL, arc_cameras, write_scene


def load(root: Path, **settings: object) -> Scene:
    return LLFF(LLFF.Config(root=str(root), **settings)).load()  # type: ignore[arg-type]


def in_order(scene: Scene, holdout: int) -> Cameras:
    """All cameras of a scene in the order of the files."""
    n = len(scene.train) + len(scene.test)
    held_out = torch.arange(n) % holdout == 0
    c2w, fx, fy = torch.empty(n, 3, 4), torch.empty(n), torch.empty(n)
    for chosen, views in ((held_out, scene.test), (~held_out, scene.train)):
        c2w[chosen], fx[chosen], fy[chosen] = views.cameras.c2w, views.cameras.fx, views.cameras.fy
    some = scene.train.cameras
    cx, cy = torch.full((n,), some.width / 2), torch.full((n,), some.height / 2)
    return Cameras(c2w, fx, fy, cx, cy, some.height, some.width)


@pytest.mark.parametrize("spread", [30.0, 180.0])
@pytest.mark.parametrize("recentre", [True, False])
def test_cameras_come_back_up_to_the_recorded_similarity(
    tmp_path: Path, spread: float, recentre: bool
) -> None:
    known = arc_cameras(10, spread)
    scene = load(write_scene(tmp_path / "s", known), recentre=recentre)
    cameras, moved = in_order(scene, 8), scene.to_scene
    torch.testing.assert_close(moved.undo(cameras.centres), known.centres, atol=1e-5, rtol=1e-5)
    turned_back = moved.rotation.float().T @ cameras.c2w[:, :, :3]
    torch.testing.assert_close(turned_back, known.c2w[:, :, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras.fx, known.fx / 4, atol=1e-4, rtol=0)
    torch.testing.assert_close(cameras.fy, known.fy / 4, atol=1e-4, rtol=0)
    torch.testing.assert_close(moved.rotation @ moved.rotation.T, torch.eye(3, dtype=torch.float64))
    if not recentre:
        torch.testing.assert_close(moved.rotation, torch.eye(3, dtype=torch.float64))
        assert moved.origin.tolist() == [0, 0, 0]


@pytest.mark.parametrize("spread", [30.0, 180.0])
def test_known_points_land_on_the_same_pixels(tmp_path: Path, spread: float) -> None:
    known = arc_cameras(9, spread)
    scene = load(write_scene(tmp_path / "s", known))
    draws = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([1.0, 2.0, 3.0]) + draws - 0.5
    before, z_before = project(known.resized(60, 80), points)
    after, z_after = project(in_order(scene, 8), scene.to_scene.apply(points))
    torch.testing.assert_close(after, before, atol=2e-3, rtol=0)
    torch.testing.assert_close(z_after, z_before * scene.to_scene.scale, atol=1e-5, rtol=1e-5)


def test_box_size_sets_the_longest_side_or_keeps_the_units(tmp_path: Path) -> None:
    root = write_scene(tmp_path / "s", arc_cameras(10))
    sides = {size: load(root, box_size=size, space="box") for size in (0.0, 2.0, 5.0)}
    assert sides[0.0].to_scene.scale == 1
    for size in (2.0, 5.0):
        box = sides[size].bounds.aabb
        assert float((box[3:] - box[:3]).max()) == pytest.approx(size, rel=1e-5)
        torch.testing.assert_close(box / sides[size].to_scene.scale, sides[0.0].bounds.aabb)
        assert sides[size].bounds.near / sides[size].to_scene.scale == pytest.approx(sides[0.0].bounds.near)


@pytest.mark.parametrize(("holdout", "expected"), [(8, [0, 8]), (3, [0, 3, 6, 9])])
def test_every_eighth_view_is_held_out(tmp_path: Path, holdout: int, expected: list[int]) -> None:
    scene = load(write_scene(tmp_path / "s", arc_cameras(10)), holdout=holdout)
    assert scene.test.names == tuple(f"view_{i:03d}" for i in expected)
    for views in (scene.test, scene.train):  # image i has grey value 10 i, so images go with their names
        numbers = torch.tensor([int(name[-3:]) for name in views.names])
        torch.testing.assert_close(views.images[:, 3, 5, 0] * 255, 10.0 * numbers)
    assert set(scene.test.names).isdisjoint(scene.train.names)


@pytest.mark.parametrize("name", ["IMG_{:04d}.JPG", "{:02d}.jpeg", "frame {:03d}.Png", "über_{:03d}.jpg"])
def test_naming_and_case_do_not_matter(tmp_path: Path, name: str) -> None:
    root = tmp_path / "s"
    write_scene(root, arc_cameras(10), name=name)
    for clutter in (".DS_Store", "._IMG_0000.JPG", "Thumbs.db", "notes.txt"):
        (root / "images_4" / clutter).write_bytes(b"not an image")
    scene = load(root)
    numbers = [round(float(image[0, 0, 0]) * 255 / 10) for image in scene.train.images]
    assert numbers == [1, 2, 3, 4, 5, 6, 7, 9]


def test_names_sort_as_text_as_they_do_in_llff(tmp_path: Path) -> None:
    # LLFF writes poses in the order of sorted(names): "10" before "2". Numbers without zeros in front follow suit.
    scene = load(write_scene(tmp_path / "s", arc_cameras(11), name="{}.png"), holdout=11)
    assert scene.test.names == ("0",)
    assert scene.train.names == ("1", "10", "2", "3", "4", "5", "6", "7", "8", "9")


@pytest.mark.parametrize(
    ("settings", "size", "used"),
    [
        ({}, (240, 320), "images"),  # the largest there is, not enlarged to 512
        ({"max_size": 80}, (60, 80), "images_4"),
        ({"max_size": 75}, (56, 75), "images_4"),
        ({"max_size": 100}, (75, 100), "images"),
        ({"max_size": 20}, (15, 20), "images_8"),
        ({"downsample": 8}, (30, 40), "images_8"),
        ({"downsample": 2}, (120, 160), "images"),
        ({"downsample": 1}, (240, 320), "images"),
    ],
)
def test_the_smallest_large_enough_folder_is_used(
    tmp_path: Path,
    settings: dict[str, float],
    size: tuple[int, int],
    used: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folders = {"images": FULL, "images_4": (60, 80), "images_8": (30, 40)}
    root = write_scene(tmp_path / "s", arc_cameras(3), folders=folders)
    with caplog.at_level(logging.INFO):
        scene = load(root, **settings)
    assert scene.train.images.shape[1:3] == size
    assert f"using {used}/" in caplog.text
    assert "\n" not in caplog.records[-1].getMessage()
    cameras = scene.train.cameras
    assert float(cameras.fx[0] / cameras.width) == pytest.approx(float(arc_cameras(3).fx[0]) / FULL[1])


def test_folders_without_pictures_and_other_folders_are_passed_over(tmp_path: Path) -> None:
    root = write_scene(tmp_path / "s", arc_cameras(3), folders={"images_8": (30, 40)})
    for name in ("images", "images_old", "sparse"):
        (root / name).mkdir()
    assert load(root).train.images.shape == (2, 30, 40, 3)


def test_rounded_sizes_scale_each_axis_by_itself(tmp_path: Path) -> None:
    known = arc_cameras(3)
    scene = load(
        write_scene(tmp_path / "s", known, folders={"images_7": (34, 46)})
    )  # 240 / 7, 320 / 7 rounded
    torch.testing.assert_close(scene.train.cameras.fx, known.fx[1:] * 46 / 320)
    torch.testing.assert_close(scene.train.cameras.fy, known.fy[1:] * 34 / 240)


def test_each_view_keeps_its_own_focal_length(tmp_path: Path) -> None:
    known = arc_cameras(4)
    focal = known.fx * torch.tensor([1.0, 1.1, 0.9, 1.2])
    known = replace(known, fx=focal, fy=focal)
    torch.testing.assert_close(load(write_scene(tmp_path / "s", known)).train.cameras.fx, focal[1:] / 4)


def test_the_log_line_says_what_was_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load(write_scene(tmp_path / "s", arc_cameras(10, 180.0)))
    for part in ("80x60", "10 views", "8 to train", "2 held out", "all around", "near", "far", "box"):
        assert part in caplog.text


def test_captions_and_truth(tmp_path: Path) -> None:
    root = write_scene(tmp_path / "s", arc_cameras(10))
    said = {"source": "a red cube", "target": "a blue cube", "world": "tabletop"}
    (root / "captions.json").write_text(json.dumps(said))
    for i in (0, 8):
        for folder in ("edited", "masks"):
            (root / folder).mkdir(exist_ok=True)
        Image.new("RGB", (80, 60), (0, 0, 100 + i)).save(root / "edited" / f"view_{i:03d}.png")
        mask = np.zeros((60, 80), np.uint8)
        mask[: i + 10, :20] = 255
        Image.fromarray(mask).save(root / "masks" / f"view_{i:03d}.png")
    scene = load(root)
    assert scene.captions == ("a red cube", "a blue cube")
    assert scene.truth is not None
    assert (scene.truth.images[:, 0, 0, 2] * 255).round().tolist() == [100, 108]
    assert scene.truth.masks.sum(dim=(1, 2)).tolist() == [200, 360]
    assert load(root, max_size=40).truth.masks.sum(dim=(1, 2)).tolist() == [50, 90]  # type: ignore[union-attr]
    (root / "masks" / "view_008.png").unlink()
    with pytest.raises(UserError, match=r"masks/view_008\.png"):
        load(root)


def test_a_plain_capture_has_neither(tmp_path: Path) -> None:
    scene = load(write_scene(tmp_path / "s", arc_cameras(3)))
    assert scene.captions is None
    assert scene.truth is None


def test_the_format_is_found_by_name() -> None:
    assert find("scene", "llff") is LLFF


@pytest.mark.skipif(
    "IDS3D_REAL_LLFF" not in os.environ, reason="IDS3D_REAL_LLFF names no folder of a real capture"
)
def test_a_real_capture_makes_sense() -> None:
    scene = load(Path(os.environ["IDS3D_REAL_LLFF"]))
    low, high = scene.bounds.aabb[:3], scene.bounds.aabb[3:]
    middle = (low + high)[None] / 2
    for views in (scene.train, scene.test):
        assert views.images.amax() > 0.5
        xy, depth = project(views.cameras, middle)
        assert (depth > 0).all()
        inside = (xy > 0).all(-1) & (xy < views.cameras.width).all(-1)
        assert float(inside.float().mean()) > 0.8
        on_axis = views.cameras.centres + views.cameras.forward * depth
        assert ((on_axis > low) & (on_axis < high)).all()


def test_behind_opaque_pictures_from_all_around_is_a_room_that_nobody_knows(tmp_path: Path) -> None:
    around = write_scene(tmp_path / "around", arc_cameras(12, 180.0))
    scene = load(around)
    assert scene.bounds.background is None and scene.bounds.core is not None
    assert load(around, background=(0.5, 0.5, 0.5)).bounds.background == (0.5, 0.5, 0.5)
    facing = load(write_scene(tmp_path / "facing", arc_cameras(12)))
    assert facing.bounds.background == (0.0, 0.0, 0.0) and facing.bounds.core is None
    # What photographs that look one way show is opaque; of what is behind a room's nothing is known.
    assert facing.train.opacity is not None and bool((facing.train.opacity == 1).all())
    assert scene.train.opacity is None and load(around, background="black").train.opacity is None
    with pytest.raises(UserError, match="behind what they show all around may be a room"):
        load(around, random_background=True)
    # What has been cut out stands before nothing.
    picture = next((around / "images_4").iterdir())
    Image.open(picture).convert("RGBA").save(picture)
    assert load(around).bounds.background == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("missing", ["columns", "nan"])
def test_depths_may_be_missing(tmp_path: Path, missing: str) -> None:
    root = write_scene(tmp_path / "s", arc_cameras(10))
    table = np.load(root / "poses_bounds.npy")
    table[:, 15:] = np.nan
    np.save(root / "poses_bounds.npy", table[:, :15] if missing == "columns" else table)
    scene = load(root)
    assert (
        scene.bounds.near < 3 * scene.to_scene.scale < scene.bounds.far
    )  # they look at a point 3 units ahead
    given = load(root, near=2.0, far=4.5)
    assert given.bounds.near / given.to_scene.scale == pytest.approx(2.0)
    table[:, :15] = table[0, :15]  # all at one place: nothing says how far things are
    np.save(root / "poses_bounds.npy", table)
    with pytest.raises(UserError, match=r"give data\.near and data\.far"):
        load(root)
    assert load(root, near=2.0, far=4.5).bounds.near > 0


def test_near_and_far_go_before_what_the_file_says(tmp_path: Path) -> None:
    root = write_scene(tmp_path / "s", arc_cameras(10))  # 2 to 4.5, times margins
    plain, given = load(root), load(root, near=1.0)
    assert plain.bounds.near / plain.to_scene.scale == pytest.approx(1.8)
    assert given.bounds.near / given.to_scene.scale == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"near=3\.0 is not below far=2\.0"):
        LLFF.Config(near=3.0, far=2.0)
