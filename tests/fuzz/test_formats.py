"""Scenes in the layouts of Blender, nerfstudio and COLMAP, damaged and extreme: a usable scene, or one line."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ids3d.data.scenes.auto import Auto
from ids3d.data.scenes.points import read_ply
from ids3d.scene import Scene
from ids3d.tabletop.sparse import write_ply
from tests.data.scenes.json_scene import cameras, write_blender, write_colmap, write_transforms
from tests.fuzz.hostile import damaged, fuzz, verdict
from tests.fuzz.test_scenes import KINDS, assert_usable, replaced

EXTREME = [
    0.0,
    -1.0,
    1e-300,
    1e-9,
    1e9,
    1e15,
    1e300,
    -1e300,
    math.nan,
    math.inf,
    10**400,
    "1",
    None,
    True,
    [],
    {},
]
SHARED = [
    "fl_x",
    "fl_y",
    "cx",
    "cy",
    "w",
    "h",
    "k1",
    "k2",
    "k3",
    "k4",
    "p1",
    "p2",
    "camera_angle_x",
    "camera_model",
]
TEXTS = [
    "",
    " ",
    "..",
    "../x",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "x" * 5000,
    "images",
    "images/",
    ".",
    "a\\b",
    "é\n",
]

NO_FRAMES = [
    b"",
    b"[" * 100_000,
    b"{",
    b"null",
    b"[]",
    b'{"frames": null}',
    b'{"frames": [[]]}',
    b"\xff\xfe",
    b"9" * 9999,
]


def load(root: Path) -> Scene:
    return Auto(Auto.Config(root=str(root), holdout=2)).load()


def tried(root: Path) -> None:
    scene = verdict(lambda: load(root), root)
    if scene is not None:
        assert_usable(scene)


@pytest.fixture
def transforms(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    known = cameras(4)
    content = write_transforms(tmp_path, known, k1=-0.05, camera_model="OPENCV", ply_file_path="p.ply")
    points = torch.tensor([1.0, 2, 3]) + torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    write_ply(tmp_path / "p.ply", points, torch.zeros(50, 3, dtype=torch.uint8))
    return tmp_path, json.loads(json.dumps(content))


@fuzz
@given(
    st.lists(st.tuples(st.sampled_from(SHARED), st.sampled_from(EXTREME)), max_size=3),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(EXTREME)), max_size=2),
    st.sampled_from(["", "OPENCV", "OPENCV_FISHEYE", "PINHOLE"]),
    st.booleans(),
)
def test_transforms_with_extreme_numbers(
    transforms: tuple[Path, dict[str, Any]],
    said: list[tuple[str, Any]],
    cells: list[tuple[int, int, Any]],
    model: str,
    points: bool,
) -> None:
    root, content = transforms
    made = json.loads(json.dumps(content)) | dict(said) | ({"camera_model": model} if model else {})
    if not points:
        del made["ply_file_path"]
    for row, column, value in cells:
        made["frames"][1]["transform_matrix"][row][column] = value
    (root / "transforms.json").write_text(json.dumps(made))
    tried(root)


@pytest.mark.parametrize("key", ["file_path", "mask_path", "ply_file_path", "camera_model", "test_filenames"])
@pytest.mark.parametrize("value", [*TEXTS, None, 3, [], ["x"], {}])
def test_transforms_with_hostile_texts(transforms: tuple[Path, dict[str, Any]], key: str, value: Any) -> None:
    root, content = transforms
    (content["frames"][2] if key in ("file_path", "mask_path") else content)[key] = value
    (root / "transforms.json").write_text(json.dumps(content))
    tried(root)


@pytest.mark.parametrize("content", NO_FRAMES)
@pytest.mark.parametrize("name", ["transforms.json", "transforms_train.json"])
def test_json_that_is_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert verdict(lambda: load(tmp_path), tmp_path) is None


@fuzz
@given(st.data(), st.sampled_from(["transforms_train.json", "transforms_test.json"]))
def test_a_damaged_blender_file(tmp_path: Path, data: st.DataObject, name: str) -> None:
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    write_blender(tmp_path / "s", cameras(4, 180.0), {"train": [0, 1, 2], "test": [3]})
    file = tmp_path / "s" / name
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    tried(tmp_path / "s")


@fuzz
@given(st.data(), st.booleans())
def test_damaged_points(tmp_path: Path, data: st.DataObject, binary: bool) -> None:
    path = tmp_path / "p.ply"
    if binary:
        head = b"ply\nformat binary_little_endian 1.0\nelement vertex 3\n"
        head += b"".join(b"property float %c\n" % axis for axis in b"xyz") + b"end_header\n"
        path.write_bytes(head + torch.eye(3).numpy().tobytes())
    else:
        write_ply(path, torch.eye(3), torch.zeros(3, 3, dtype=torch.uint8))
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    points = verdict(lambda: read_ply(path), tmp_path)
    assert points is None or (points.shape[1:] == (3,) and points.isfinite().all())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A scene with a model as text, and the same as a binary one."""
    pycolmap = pytest.importorskip("pycolmap")
    text, binary = (tmp_path_factory.mktemp("models") / name for name in ("text", "binary"))
    write_colmap(text, cameras(4))
    shutil.copytree(text, binary)
    model = binary / "sparse" / "0"
    pycolmap.Reconstruction(str(model)).write_binary(str(model))
    for file in model.glob("*.txt"):
        file.unlink()
    return text, binary


@fuzz
@given(st.data())
def test_a_damaged_model(models: tuple[Path, Path], tmp_path: Path, data: st.DataObject) -> None:
    root = data.draw(st.sampled_from(models))
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    shutil.copytree(root, tmp_path / "s")
    file = data.draw(st.sampled_from(sorted((tmp_path / "s" / "sparse" / "0").iterdir())))
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    tried(tmp_path / "s")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["transforms.json", "images", "images/view_000.png", "p.ply", "captions.json"]
)
def test_something_else_in_the_place_of_a_file(
    transforms: tuple[Path, dict[str, Any]], name: str, kind: str
) -> None:
    make: Callable[[Path], object] = KINDS[kind]
    replaced(name, make)(transforms[0])
    tried(transforms[0])
