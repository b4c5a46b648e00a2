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
    sides = {size: load(root, box_size=size) for size in (0.0, 2.0, 5.0)}
    assert sides[0.0].to_scene.scale == 1
    for size in (2.0, 5.0):
        box = sides[size].bounds.aabb
        assert float((box[3:] - box[:3]).max()) == pytest.approx(size, rel=1e-5)
        torch.testing.assert_close(box / sides[size].to_scene.scale, sides[0.0].bounds.aabb)
        assert sides[size].near / sides[size].to_scene.scale == pytest.approx(sides[0.0].near)


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
    (root / "captions.json").write_text(json.dumps({"source": "a red cube", "target": "a blue cube"}))
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


def damage_table(row: int, column: int, value: float) -> object:
    def damage(root: Path) -> None:
        table = np.load(root / "poses_bounds.npy")
        table[row, column] = value
        np.save(root / "poses_bounds.npy", table)

    return damage


def reshape_table(*shape: int) -> object:
    return lambda root: np.save(root / "poses_bounds.npy", np.ones(shape))


def overwrite(path: str, content: bytes) -> object:
    return lambda root: (root / path).write_bytes(content)


def save_image(mode: str, size: tuple[int, int]) -> object:
    return lambda root: Image.new(mode, size).save(root / "images_4" / "view_003.png")


def truncate(path: str) -> object:
    def damage(root: Path) -> None:
        content = (root / path).read_bytes()
        (root / path).write_bytes(content[: len(content) * 2 // 3])

    return damage


def mirror(root: Path) -> None:
    table = np.load(root / "poses_bounds.npy")
    table[2, [1, 6, 11]] *= -1
    np.save(root / "poses_bounds.npy", table)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "poses_bounds.npy").unlink(), "no poses_bounds.npy"),
        (reshape_table(10, 15), r"shape \(10, 15\), expected \(views, 17\)"),
        (reshape_table(17), r"shape \(17,\)"),
        (reshape_table(1, 17), "at least 2"),
        (reshape_table(0, 17), "at least 2"),
        (reshape_table(12, 17), "view 0 has bounds"),
        (overwrite("poses_bounds.npy", b"\x93NUMPY nonsense"), "cannot read"),
        (overwrite("poses_bounds.npy", b""), "cannot read"),
        (lambda root: np.save(root / "poses_bounds.npy", np.full((10, 17), "a")), "numbers"),
        (
            lambda root: np.save(root / "poses_bounds.npy", np.load(root / "poses_bounds.npy")[:9]),
            "10 images .* 9",
        ),
        (lambda root: (root / "images_4" / "view_009.png").unlink(), "9 images and .* 10 poses"),
        (damage_table(4, 3, np.nan), "view 4 .* finite"),
        (damage_table(4, 16, np.inf), "view 4 .* finite"),
        (damage_table(5, 14, 0.0), "view 5 .* focal length"),
        (damage_table(6, 15, -1.0), "view 6 .* 0 < near < far"),
        (damage_table(6, 16, 1.0), "view 6 .* 0 < near < far"),
        (damage_table(7, 0, 3.0), "view 7 .* no rotation"),
        (mirror, "view 2 .* no rotation"),
        (overwrite("images_4/view_003.png", b"not an image at all"), r"cannot read .*view_003\.png"),
        (overwrite("images_4/view_003.png", b""), r"cannot read .*view_003\.png"),
        (truncate("images_4/view_003.png"), r"cannot read .*view_003\.png"),
        (save_image("RGB", (40, 30)), "differing sizes .*view_000.*80x60.*view_003.*40x30"),
        (save_image("RGB", (80, 50)), r"view_003\.png has 80x50 pixels.* 320x240"),
        (save_image("I;16", (80, 60)), "8 bits"),
        (lambda root: (root / "images_4").rename(root / "pictures"), "no JPEG or PNG"),
        (overwrite("captions.json", b"{"), "cannot read .*captions.json"),
        (overwrite("captions.json", b'{"source": "a cube"}'), "captions.json must read"),
        (overwrite("captions.json", b"[]"), "captions.json must read"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, damage: object, message: str) -> None:
    root = write_scene(tmp_path / "s", arc_cameras(10))
    damage(root)  # type: ignore[operator]
    with pytest.raises(UserError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_folder_of_scenes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        load(tmp_path / "nowhere")
    write_scene(tmp_path / "scenes" / "fern", arc_cameras(3))
    with pytest.raises(UserError, match=r"did you mean .*fern"):
        load(tmp_path / "scenes")


def test_pictures_are_not_enlarged(tmp_path: Path) -> None:
    root = write_scene(tmp_path / "s", arc_cameras(3))
    with pytest.raises(UserError, match=r"not enlarged; use downsample=4\b"):
        load(root, downsample=2)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_size": 0},
        {"downsample": 0.5},
        {"holdout": 1},
        {"near_margin": 0.0},
        {"near_margin": 1.1},
        {"far_margin": 0.5},
        {"box_size": -1.0},
        {"background": (0.0, 0.0, 2.0)},
    ],
)
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        LLFF.Config(**settings)  # type: ignore[arg-type]


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
    assert load(around, background=(0.5, 0.5, 0.5)).background == (0.5, 0.5, 0.5)
    facing = load(write_scene(tmp_path / "facing", arc_cameras(12)))
    assert facing.bounds.background == (0.0, 0.0, 0.0) and facing.bounds.core is None
    # What has been cut out stands before nothing.
    picture = next((around / "images_4").iterdir())
    Image.open(picture).convert("RGBA").save(picture)
    assert load(around).background == (0.0, 0.0, 0.0)
