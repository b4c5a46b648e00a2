"""Scenes written to disk: LLFF read back by the project's loader, Blender's conventions spelled out."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ids3d.cameras import project
from ids3d.data.scenes.capture import SAMPLE
from ids3d.data.scenes.llff import LLFF
from ids3d.data.scenes.truth import read_depth
from ids3d.errors import UserError
from ids3d.tabletop.benchmark import write_edits
from ids3d.tabletop.edits import KINDS, recolour, refloor, render_edit
from ids3d.tabletop.folders import DEPTH_UNIT, write_blender, write_llff
from ids3d.tabletop.render import render
from ids3d.tabletop.scene import HELD_OUT, around_cameras, forward_cameras, sample_scene

EDIT = recolour(sample_scene(HELD_OUT + 10), 0, "red")


@pytest.mark.parametrize("layout", ["forward", "around"])
def test_llff_read_back(layout: str, tmp_path: Path) -> None:
    cameras = (forward_cameras if layout == "forward" else around_cameras)(1, 9, 24)
    write_llff(tmp_path / "scene", EDIT, cameras, supersampling=1)
    scene = LLFF(LLFF.Config(root=str(tmp_path / "scene"))).load()
    assert scene.captions == (EDIT.source, EDIT.target)
    order = torch.arange(9)
    for views, index in ((scene.train, order[order % 8 != 0]), (scene.test, order[order % 8 == 0])):
        truth = cameras[index]
        centres = scene.to_scene.undo(views.cameras.centres)
        turned = scene.to_scene.rotation.float().T @ views.cameras.c2w[:, :, :3]
        assert (centres - truth.centres).abs().max() < 1e-5
        assert (turned - truth.c2w[:, :, :3]).abs().max() < 1e-5
        for name in ("fx", "fy", "cx", "cy"):
            assert (getattr(views.cameras, name) - getattr(truth, name)).abs().max() < 1e-4
        assert (views.cameras.height, views.cameras.width) == (24, 24)

    assert scene.truth is not None
    for row, index in enumerate((0, 8)):
        view = render_edit(EDIT, cameras[index], supersampling=1)
        assert (scene.test.images[row] - view.before.rgb).abs().max() <= 0.51 / 255
        assert (scene.truth.images[row] - view.after.rgb).abs().max() <= 0.51 / 255
        assert torch.equal(scene.truth.masks[row], view.mask)
        assert scene.truth.depths is not None
        depth = view.before.depth * scene.to_scene.scale
        assert (scene.truth.depths[row] - depth).abs().max() <= 0.51 * DEPTH_UNIT * scene.to_scene.scale


def test_true_depths_are_all_there_or_none_are(tmp_path: Path) -> None:
    write_llff(tmp_path, EDIT, forward_cameras(1, 9, 24), supersampling=1)
    first, *others = sorted((tmp_path / "depth").iterdir())
    first.unlink()
    with pytest.raises(
        UserError, match=f"there is no {first}: each held-out view needs one in edited/, masks/, depth/"
    ):
        LLFF(LLFF.Config(root=str(tmp_path))).load()
    for path in others:
        path.unlink()
    (tmp_path / "depth").rmdir()
    truth = LLFF(LLFF.Config(root=str(tmp_path))).load().truth
    assert truth is not None
    assert truth.depths is None


def test_a_depth_map_is_read_at_the_middles_of_larger_pixels(tmp_path: Path) -> None:
    path, there = tmp_path / "depth.png", np.arange(6 * 9, dtype=np.uint16).reshape(6, 9)
    Image.fromarray(there).save(path)
    expected = there[1::3, 1::3] * 1e-3
    np.testing.assert_allclose(read_depth(path, 2, 3).numpy(), expected, rtol=1e-6)
    for height, width in ((7, 9), (6, 10)):
        with pytest.raises(UserError, match="no picture of 16 bits with a pixel for each"):
            read_depth(path, height, width)
    Image.fromarray(there.astype(np.uint8)).save(path)
    with pytest.raises(UserError, match="no picture of 16 bits"):
        read_depth(path, 2, 3)
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be read as a picture"):
        read_depth(path, 2, 3)


def test_everything_near_lies_in_the_loaders_box(tmp_path: Path) -> None:
    """Forward-facing, the box holds all that any picture shows: objects, floor and walls."""
    cameras = forward_cameras(1, 6, 24)
    write_llff(tmp_path, EDIT, cameras, supersampling=1)
    scene = LLFF(LLFF.Config(root=str(tmp_path))).load()
    for i in range(6):
        rays, depth = cameras[i].rays(), render(EDIT.before, cameras[i], supersampling=1).depth
        points = (rays.origins[0] + depth[..., None] * rays.directions[0]).reshape(-1, 3)
        placed = scene.to_scene.apply(points)
        assert ((placed > scene.bounds.aabb[:3]) & (placed < scene.bounds.aabb[3:])).all()
        distance = depth * scene.to_scene.scale
        assert (distance > scene.bounds.near).all()
        assert (distance < scene.bounds.far).all()


def test_blender_by_hand(tmp_path: Path) -> None:
    cameras = around_cameras(2, 3, 20)
    root = tmp_path / "scene"
    write_blender(root, EDIT, {"train": cameras[:2], "test": cameras[2:]}, supersampling=2, depth=True)
    assert json.loads((root / "captions.json").read_text())["target"] == EDIT.target
    transforms = json.loads((root / "transforms_train.json").read_text())
    assert transforms["camera_angle_x"] == pytest.approx(math.radians(43))
    focal = 0.5 * 20 / math.tan(0.5 * transforms["camera_angle_x"])  # as every reader of the layout has it
    assert focal == pytest.approx(float(cameras.fx[0]), rel=1e-6)
    for index, frame in enumerate(transforms["frames"]):
        matrix = np.array(frame["transform_matrix"])
        assert matrix.shape == (4, 4)
        np.testing.assert_array_equal(matrix[3], [0, 0, 0, 1])
        np.testing.assert_allclose(matrix[:3], cameras.c2w[index].numpy(), atol=1e-7)
        seen = render(EDIT.before, cameras[index], room=False)
        picture = np.asarray(Image.open(root / f"{frame['file_path']}.png")).astype(float) / 255
        assert picture.shape == (20, 20, 4)
        np.testing.assert_allclose(picture[..., 3], seen.opacity, atol=0.51 / 255)
        laid_on_black = picture[..., :3] * picture[..., 3:]
        np.testing.assert_allclose(laid_on_black, seen.rgb, atol=1.1 / 255)
        depth = np.load(root / "depth" / f"{frame['file_path']}.npy")
        np.testing.assert_array_equal(depth, seen.depth)
        # The object's centre, by hand: x right, y up, looking along -z.
        thing = EDIT.before.objects[0]
        local = matrix[:3, :3].T @ (np.array([thing.x, thing.y, thing.size]) - matrix[:3, 3])
        column, row = 10 + focal * local[0] / -local[2], 10 - focal * local[1] / -local[2]
        assert picture[int(row), int(column), 3] > 0.9
        xy, _ = project(cameras[index], torch.tensor([[thing.x, thing.y, thing.size]]))
        assert xy[0, 0].tolist() == pytest.approx([column, row], abs=1e-3)
    assert len(json.loads((root / "transforms_test.json").read_text())["frames"]) == 1
    for folder in ("edited", "masks"):
        assert (root / folder / "test" / "r_0.png").is_file()


def test_blender_with_its_room(tmp_path: Path) -> None:
    write_blender(tmp_path, refloor(EDIT.before, "wooden"), {"train": around_cameras(0, 1, 8)}, 1, room=True)
    assert (np.asarray(Image.open(tmp_path / "train" / "r_0.png"))[..., 3] == 255).all()
    with pytest.raises(UserError, match="--room"):
        write_blender(tmp_path / "new", refloor(EDIT.before, "wooden"), {})
    with pytest.raises(UserError, match="not an empty folder"):
        write_llff(tmp_path, EDIT, around_cameras(0, 1, 8))


def test_image_edits(tmp_path: Path) -> None:
    root = tmp_path / "edits"
    write_edits(root, range(HELD_OUT, HELD_OUT + 5), KINDS, size=24)
    with (root / "prompts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == list(KINDS)
    for row in rows:
        source, truth, mask = (
            np.asarray(Image.open(root / row["name"] / f"{name}.png")).astype(int)
            for name in ("source", "truth", "mask")
        )
        assert source.shape == truth.shape == (24, 24, 3)
        assert set(np.unique(mask)) == {0, 255}
        change = np.abs(source - truth).max(-1)
        assert change[mask == 255].mean() > 10 * change[mask == 0].mean()
        assert row["source"] != row["target"]
    with pytest.raises(UserError, match="not an empty folder"):
        write_edits(root, range(1), KINDS)


def test_the_sample_scene_is_whole() -> None:
    size = sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file())
    assert size < 3_000_000
    scene = LLFF(LLFF.Config()).load()
    assert len(scene.train) + len(scene.test) == 24
    assert scene.layout == "forward-facing"
    assert scene.truth is not None
    assert scene.captions == (
        "a red cube and a black cylinder on a wooden floor",
        "a blue cube and a black cylinder on a wooden floor",
    )
    inside = scene.truth.masks
    gap = (scene.truth.images - scene.test.images).abs().amax(-1)
    assert gap[~inside].max() == 0
    assert gap[inside].mean() > 0.2
    share = inside.float().mean(dim=(1, 2))
    assert ((share > 0.03) & (share < 0.3)).all()
