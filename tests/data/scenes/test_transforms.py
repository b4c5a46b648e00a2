"""transforms.json as nerfstudio and instant-ngp write it, in all its ways; what is wrong with one is one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ids3d.data.scenes.transforms import Transforms
from ids3d.errors import UserError
from ids3d.scene import Scene
from tests.data.scenes.json_scene import SIZE, cameras, frame, save, write_images, write_transforms


def load(root: Path, **settings: object) -> Scene:
    return Transforms(Transforms.Config(root=str(root), **settings)).load()  # type: ignore[arg-type]


def test_applied_transform_is_undone(tmp_path: Path) -> None:
    known = cameras()
    applied = torch.tensor([[0.0, 1, 0, 0.5], [1, 0, 0, -2], [0, 0, -1, 3]])
    turned = torch.cat(
        [applied[:, :3] @ known.c2w[:, :, :3], applied[:, :3] @ known.c2w[:, :, 3:] + applied[:, 3:]], 2
    )
    frames = [frame(c2w, f"images/view_{i:03d}.png") for i, c2w in enumerate(turned)]
    write_transforms(tmp_path, known, frames=frames, applied_transform=applied.tolist())
    scene = load(tmp_path)
    torch.testing.assert_close(
        scene.to_scene.undo(scene.test.cameras.centres), known.centres[[0, 8]], atol=1e-5, rtol=0
    )
    # ... of the points too.
    points = known.centres[:1] - torch.linspace(2, 3, 50)[:, None] * known.c2w[:1, :, 2]
    written = "\n".join(
        " ".join(map(str, row)) for row in (points @ applied[:, :3].T + applied[:, 3]).tolist()
    )
    head = "ply\nformat ascii 1.0\nelement vertex 50\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    (tmp_path / "p.ply").write_text(head + written + "\n")
    write_to = write_transforms(
        tmp_path / "b", known, frames=frames, applied_transform=applied.tolist(), ply_file_path="../p.ply"
    )
    with pytest.raises(UserError, match="not in the scene's folder"):
        load(tmp_path / "b")
    (tmp_path / "p.ply").rename(tmp_path / "b" / "p.ply")
    save(tmp_path / "b", {**write_to, "ply_file_path": "p.ply"})
    bounds = load(tmp_path / "b", near_margin=1.0).bounds
    assert bounds.near / load(tmp_path / "b", near_margin=1.0).to_scene.scale == pytest.approx(2, abs=0.1)


def test_intrinsics_of_each_frame_and_angles(tmp_path: Path) -> None:
    known = cameras(4)
    frames = [
        frame(c2w, f"images/view_{i:03d}.png", fl_x=90 + i, fl_y=80 + i, cx=41, cy=28)
        for i, c2w in enumerate(known.c2w)
    ]
    content = write_transforms(tmp_path, known, frames=frames)
    read = load(tmp_path).train.cameras
    assert read.fx.tolist() == [91, 92, 93] and read.fy.tolist() == [81, 82, 83]
    assert read.cx.tolist() == [41] * 3 and read.cy.tolist() == [28] * 3
    half = load(tmp_path, max_size=40).train.cameras
    assert half.fx.tolist() == [45.5, 46, 46.5] and half.cy.tolist() == [14] * 3
    for key in ("fl_x", "fl_y", "w", "h"):
        del content[key]
    plain = [frame(c2w, f"images/view_{i:03d}.png") for i, c2w in enumerate(known.c2w)]
    save(tmp_path, {**content, "frames": plain, "camera_angle_x": 2 * math.atan(40 / 77)})
    read = load(tmp_path).train.cameras
    assert read.fx.tolist() == pytest.approx([77] * 3) and read.fy.tolist() == pytest.approx([77] * 3)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({}, ["view_000", "view_008"]),
        ({"test_filenames": ["images/view_003.png", "./images/view_004.png"]}, ["view_003", "view_004"]),
        ({"val_filenames": ["images/view_007.png"]}, ["view_007"]),
        ({"val_filenames": ["images/view_007.png"], "test_filenames": ["images/view_001.png"]}, ["view_001"]),
    ],
)
def test_what_is_held_out(tmp_path: Path, said: dict[str, list[str]], names: list[str]) -> None:
    write_transforms(tmp_path, cameras(), **said)
    scene = load(tmp_path)
    assert list(scene.test.names) == names
    assert len(scene.train) == 10 - len(names) and set(scene.train.names).isdisjoint(names)
    for views in (scene.train, scene.test):
        numbers = torch.tensor([int(name[-3:]) for name in views.names])
        torch.testing.assert_close(views.images[:, 3, 5, 0] * 255, 10.0 * numbers)


def test_only_the_frames_that_are_listed(tmp_path: Path) -> None:
    lists = {
        key: [f"images/view_{i:03d}.png" for i in chosen]
        for key, chosen in (("train", (1, 5)), ("test", (2,)))
    }
    write_transforms(tmp_path, cameras(), **{f"{key}_filenames": names for key, names in lists.items()})
    scene = load(tmp_path)
    assert scene.train.names == ("view_001", "view_005") and scene.test.names == ("view_002",)


def test_order_is_that_of_the_names(tmp_path: Path) -> None:
    content = write_transforms(tmp_path, cameras())
    save(tmp_path, {**content, "frames": content["frames"][::-1]})
    scene = load(tmp_path)
    assert scene.test.names == ("view_000", "view_008")
    torch.testing.assert_close(
        scene.to_scene.undo(scene.test.cameras.centres), cameras().centres[[0, 8]], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("suffix", ["", ".jpg"])
@pytest.mark.parametrize("stored", [".png", ".JPG"])
def test_the_suffix_may_be_missing_or_another(tmp_path: Path, suffix: str, stored: str) -> None:
    write_transforms(tmp_path, cameras(3), suffix)
    for file in list((tmp_path / "images").iterdir()):
        Image.open(file).save(file.with_suffix(stored), "PNG" if stored == ".png" else "JPEG")
        if stored != ".png":
            file.unlink()
    assert load(tmp_path).test.names == ("view_000",)


@pytest.mark.parametrize(
    ("max_size", "used"), [(512, (60, 80)), (40, (30, 40)), (38, (28, 38)), (20, (15, 20)), (10, (8, 10))]
)
def test_reduced_folders_are_used(tmp_path: Path, max_size: int, used: tuple[int, int]) -> None:
    known = cameras(3)
    write_transforms(tmp_path, known)
    for factor in (2, 4):
        write_images(tmp_path / f"images_{factor}", 3, (60 // factor, 80 // factor))
    for file in (tmp_path / "images_2").iterdir():  # what it shows says where it is from
        Image.new("RGB", (40, 30), (250, 0, 0)).save(file)
    scene = load(tmp_path, max_size=max_size)
    assert scene.train.images.shape[1:3] == used
    assert float(scene.train.cameras.fx[0] / used[1]) == pytest.approx(float(known.fx[0]) / 80)
    red = scene.train.images[0, 0, 0].tolist()
    assert (red == pytest.approx([250 / 255, 0, 0])) is (max_size in (38, 40))
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    assert load(tmp_path).train.images.shape[1:3] == (30, 40)


def test_masks_say_what_counts(tmp_path: Path) -> None:
    known = cameras(3)
    frames = [frame(c2w, f"images/view_{i:03d}.png") for i, c2w in enumerate(known.c2w)]
    frames[1]["mask_path"] = "masks/view_001.png"
    write_transforms(tmp_path, known, frames=frames)
    (tmp_path / "masks").mkdir()
    mask = Image.new("L", (80, 60), 255)
    mask.paste(0, (0, 0, 20, 60))
    mask.save(tmp_path / "masks" / "view_001.png")
    scene = load(tmp_path)
    assert scene.train.known is not None and scene.test.known is not None and scene.truth is None
    assert scene.test.known.all() and scene.train.known[1].all()
    assert not scene.train.known[0, :, :20].any() and scene.train.known[0, :, 20:].all()
    assert load(tmp_path, max_size=40).train.known[0].sum() == 30 * 30  # type: ignore[index]
    small = load(tmp_path)
    assert small.digest != load_without_mask(tmp_path, known).digest


def load_without_mask(root: Path, known: Any) -> Scene:
    content = {"w": 80, "h": 60, "fl_x": float(known.fx[0]), "fl_y": float(known.fy[0])}
    frames = [frame(c2w, f"images/view_{i:03d}.png") for i, c2w in enumerate(known.c2w)]
    save(root, {**content, "frames": frames})
    return load(root)


def test_an_instant_ngp_fisheye_is_one(tmp_path: Path) -> None:
    write_transforms(tmp_path, cameras(3), is_fisheye=True, k1=0.01)
    zoom = load(tmp_path).train.cameras.fx[0] / cameras(3).fx[0]
    write_transforms(tmp_path / "b", cameras(3), camera_model="OPENCV_FISHEYE", k1=0.01)
    assert load(tmp_path / "b").train.cameras.fx[0] / cameras(3).fx[0] == zoom < 0.99


def test_names_that_repeat_in_folders_are_told_apart(tmp_path: Path) -> None:
    known = cameras(4)
    for i in range(4):
        write_images(tmp_path / "images" / f"cam{i}", 1)
    frames = [frame(c2w, f"images/cam{i}/view_000.png") for i, c2w in enumerate(known.c2w)]
    content = {"w": SIZE[1], "h": SIZE[0], "fl_x": 90, "frames": frames}
    save(tmp_path, content)
    scene = load(tmp_path)
    assert scene.train.names == ("cam1-view_000", "cam2-view_000", "cam3-view_000")


def test_near_and_far_may_be_given(tmp_path: Path) -> None:
    known = cameras(4, 0.0)
    c2w = known.c2w.clone()
    c2w[:, :, :3] = c2w[0, :, :3]  # side by side: they look at no one point
    frames = [frame(pose, f"images/view_{i:03d}.png") for i, pose in enumerate(c2w)]
    write_transforms(tmp_path, known, frames=frames)
    with pytest.raises(UserError, match=r"give data\.near and data\.far"):
        load(tmp_path)
    scene = load(tmp_path, near=1.5, far=6.0)
    assert scene.bounds.near / scene.to_scene.scale == pytest.approx(1.5)


def test_depths_are_guessed_from_what_the_cameras_look_at(tmp_path: Path) -> None:
    write_transforms(tmp_path, cameras())
    scene = load(tmp_path)
    focus = scene.to_scene.apply(torch.tensor([1.0, 2.0, 3.0]))  # 3 units ahead of each
    assert ((focus > scene.bounds.aabb[:3]) & (focus < scene.bounds.aabb[3:])).all()
    assert scene.bounds.near < 3 * scene.to_scene.scale < scene.bounds.far


WRONG = [
    (lambda c: c.update(camera_model="EQUIRECTANGULAR"), "camera_model EQUIRECTANGULAR: .*OPENCV_FISHEYE"),
    (lambda c: c.update(camera_model="OPENCV", k4=0.1), "k4 means something for"),
    (lambda c: c.update(fl_x=0), "focal length that is not positive"),
    (lambda c: c.update(fl_x="x"), "fl_x is no finite number"),
    (lambda c: c.update(fl_x=math.inf), "fl_x is no finite number"),
    (lambda c: c.update(k1=-1e9), "distortion leaves nothing"),
    (lambda c: (c.pop("fl_x"), c.pop("fl_y")), "neither fl_x nor camera_angle_x"),
    (lambda c: c.update(camera_angle_x=200.0, fl_x=None), "no angle of view"),
    (lambda c: c["frames"][2].update(transform_matrix=[[math.nan] * 4] * 4), "frame 2: transform_matrix"),
    (lambda c: c["frames"][2].update(transform_matrix=[[1, 0, 0]] * 3), "frame 2: transform_matrix"),
    (
        lambda c: c["frames"][2].update(transform_matrix=[[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]),
        "no rotation",
    ),
    (lambda c: c["frames"][2].update(file_path="images/none.png"), "there is no image .*none.png"),
    (lambda c: c["frames"][2].update(file_path="../../etc/passwd"), "not in the scene's folder"),
    (lambda c: c["frames"][2].update(file_path="/etc/passwd"), "not in the scene's folder"),
    (lambda c: c["frames"][2].pop("file_path"), "frame 2 has no file_path"),
    (lambda c: c["frames"][2].update(mask_path="masks/none.png"), "no mask .*none.png"),
    (lambda c: c["frames"][2].update(mask_path="../x.png"), "not in the scene's folder"),
    (lambda c: c["frames"].__setitem__(2, 5), "frame 2 is no mapping"),
    (lambda c: c.update(frames=[]), "no frames"),
    (lambda c: c.update(frames=c["frames"][:1]), "at least 2"),
    (lambda c: c.update(frames={}), "no list"),
    (lambda c: c.update(w=10**9, h=10**9), "angle of view below 0.1"),
    (lambda c: c.update(h=50), "80x60 pixels, which is no reduction"),
    (lambda c: c.update(applied_transform=[[1, 0, 0, 0]] * 3), "applied_transform is no rotation"),
    (lambda c: c.update(applied_transform=[1, 2]), "applied_transform is no matrix"),
    (lambda c: c.update(test_filenames=["images/who.png"]), "who.png, which no frame is called"),
    (lambda c: c.update(test_filenames=[3]), "test_filenames is no list"),
    (lambda c: c.update(test_filenames=[f["file_path"] for f in c["frames"]]), "0 views to train on"),
    (lambda c: c.update(ply_file_path="none.ply"), "cannot read the points of .*none.ply"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG)
def test_what_is_wrong_is_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    content = write_transforms(tmp_path, cameras())
    damage(content)
    save(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
