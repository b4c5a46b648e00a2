"""NeRF's Blender layout: splits, backgrounds, the box of an object; what is wrong with a folder is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ids3d.data.scenes.blender import Blender
from ids3d.errors import UserError
from ids3d.scene import Scene
from tests.data.scenes.json_scene import cameras, write_blender


def load(root: Path, **settings: object) -> Scene:
    return Blender(Blender.Config(root=str(root), **settings)).load()  # type: ignore[arg-type]


def folder(root: Path, splits: dict[str, list[int]] | None = None, mode: str = "RGBA") -> Path:
    chosen = splits or {"train": [0, 1, 2, 3], "val": [4], "test": list(range(5, 12))}
    write_blender(root, cameras(12, 180.0), chosen, mode)
    return root


@pytest.mark.parametrize(
    ("splits", "settings", "train", "test"),
    [
        ({"train": [0, 1], "val": [2], "test": [3, 4, 5]}, {}, [0, 1], [3, 4, 5]),
        ({"train": [0, 1], "test": list(range(2, 12))}, {"test_views": 3}, [0, 1], [2, 5, 8]),
        ({"train": [0, 1], "test": list(range(2, 12))}, {"test_views": 0}, [0, 1], list(range(2, 12))),
        ({"train": [0, 1], "val": [2, 3]}, {}, [0, 1], [2, 3]),
        ({"train": list(range(10))}, {"holdout": 4}, [1, 2, 3, 5, 6, 7, 9], [0, 4, 8]),
    ],
)
def test_splits(
    tmp_path: Path, splits: dict[str, list[int]], settings: dict[str, Any], train: list[int], test: list[int]
) -> None:
    scene = load(folder(tmp_path, splits), **settings)
    assert scene.train.names == tuple(f"r_{i}" for i in train)
    assert scene.test.names == tuple(f"r_{i}" for i in test)
    known = cameras(12, 180.0)
    for views, order in ((scene.train, train), (scene.test, test)):
        torch.testing.assert_close(
            scene.to_scene.undo(views.cameras.centres), known.centres[order], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(views.images[:, 15, 25, 1] * 255, 10.0 * torch.tensor(order))
        torch.testing.assert_close(views.cameras.fx, known.fx[order])


@pytest.mark.parametrize(
    ("background", "colour"),
    [(None, (1, 1, 1)), ("white", (1, 1, 1)), ("black", (0, 0, 0)), ((0.2, 0.4, 0.6), (0.2, 0.4, 0.6))],
)
def test_transparency_is_before_the_background(
    tmp_path: Path, background: Any, colour: tuple[float, ...]
) -> None:
    scene = load(folder(tmp_path), background=background)
    assert scene.bounds.background == colour and (scene.train.opacity is None) == (background is not None)
    assert scene.train.images[0, 0, 0].tolist() == pytest.approx(colour)
    assert (scene.train.images[:, 15, 25, 0] * 255).round().tolist() == [200] * 4


def test_a_random_background_comes_with_the_images_opacity(tmp_path: Path) -> None:
    scene = load(folder(tmp_path))
    opacity = scene.train.opacity
    assert opacity is not None and opacity.shape == scene.train.images.shape[:3]
    assert opacity[:, 12:28, 22:38].min() == 1 and opacity.sum() == 4 * 400
    known = load(tmp_path, random_background=False)
    assert known.train.opacity is None and scene.digest != known.digest
    opaque = folder(tmp_path / "opaque", mode="RGB")
    with pytest.raises(UserError, match="random_background: no image is transparent"):
        load(opaque, random_background=True)


def test_the_box_is_around_what_all_cameras_look_at(tmp_path: Path) -> None:
    scene = load(folder(tmp_path), box_size=0.0)
    focus = scene.to_scene.apply(torch.tensor([[1.0, 2.0, 3.0]]))[0]
    low, high = scene.bounds.aabb[:3], scene.bounds.aabb[3:]
    torch.testing.assert_close((low + high) / 2, focus, atol=0.05, rtol=0)
    half = 3 * 40 / float(cameras().fx[0])  # what is seen 3 units ahead, to the side
    torch.testing.assert_close((high - low) / 2, torch.full((3,), half), atol=0.03, rtol=0)
    distance = (scene.train.cameras.centres - focus).norm(dim=-1)
    assert (
        scene.bounds.near < float(distance.min()) - half and scene.bounds.far > float(distance.max()) + half
    )


def test_opaque_pictures_stand_in_a_room_that_nobody_knows(tmp_path: Path) -> None:
    scene = load(folder(tmp_path, mode="RGB"))
    assert scene.bounds.background is None
    assert load(tmp_path, background="white").bounds.background == (1, 1, 1)


def change(name: str, **said: Any) -> Any:
    def damage(root: Path) -> None:
        content = json.loads((root / name).read_text()) | said
        (root / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "transforms_train.json").unlink(), "no transforms_train.json"),
        (lambda root: (root / "transforms_test.json").write_text("{"), "transforms_test.json cannot be read"),
        (change("transforms_test.json", frames=3), 'transforms_test.json has no list "frames"'),
        (change("transforms_train.json", camera_angle_x=None), "no camera_angle_x"),
        (change("transforms_train.json", camera_angle_x=0), "no angle of view in radians: 0"),
        (change("transforms_train.json", camera_angle_x=[1]), "camera_angle_x is no finite number"),
        (lambda root: (root / "test" / "r_5.png").unlink(), "no image .*r_5"),
        (lambda root: Image.new("RGBA", (40, 30)).save(root / "train" / "r_1.png"), "differing sizes"),
        (lambda root: (root / "train" / "r_1.png").write_bytes(b"x"), r"cannot read .*r_1\.png"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    root = folder(tmp_path)
    damage(root)
    with pytest.raises(UserError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)
