"""LLFF folders, damaged and extreme: a scene that can be rendered and filmed, or one line."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ids3d.data.scenes.llff import LLFF
from ids3d.data.scenes.truth import read_captions
from ids3d.images import film_path
from ids3d.models.geometry.grid import GridGeometry
from ids3d.models.renderers.occupancy import OccupancyRenderer
from ids3d.scene import Scene
from tests.data.scenes.llff_folder import arc_cameras, write_scene
from tests.fuzz.hostile import PATHS, Payload, damaged, fuzz, verdict


def folder(root: Path, spread: float = 30.0) -> Path:
    return write_scene(root, arc_cameras(4, spread), folders={"images": (6, 8)})


def load(root: Path, **settings: float) -> Scene:
    return LLFF(LLFF.Config(root=str(root), holdout=2, **settings)).load()  # type: ignore[arg-type]


def assert_usable(scene: Scene) -> None:
    """What a run does with a scene that was accepted: lay a field out in it, render a view of it, film it."""
    bounds = scene.bounds
    assert 0 <= bounds.near < bounds.far < math.inf
    geometry = GridGeometry(GridGeometry.Config(voxels=64), bounds)
    renderer = OccupancyRenderer(OccupancyRenderer.Config(occupancy_cells=64, steps=16), geometry, bounds)
    renderer.before_step(0, torch.Generator().manual_seed(0))
    view = renderer.render(scene.test.cameras[0])
    path = film_path(scene.train.cameras, scene.layout, 4, 0.5 * (bounds.near + bounds.far))
    for tensor in (scene.train.images, scene.train.cameras.c2w, bounds.aabb, view.rgb, view.depth, path.c2w):
        assert tensor.isfinite().all()


POWERS = [10.0**e for e in (-300, -30, -9, -3, 0, 3, 6, 9, 15, 30, 300)]
EXTREME = [0.0, -0.0, *POWERS, *(-power for power in POWERS), math.nan, math.inf, -math.inf]
SETTINGS = {
    "recentre": st.booleans(),
    "box_size": st.sampled_from([0.0, 1e-3, 1e3]),
    "far_margin": st.just(1e3),
}


@fuzz
@given(
    cells=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 16), st.sampled_from(EXTREME)), max_size=4),
    columns=st.lists(st.tuples(st.integers(0, 16), st.sampled_from(EXTREME)), max_size=2),
    spread=st.sampled_from([0.0, 1e-6, 30.0, 180.0]),
    settings=st.fixed_dictionaries({}, optional=SETTINGS),
)
def test_poses_with_extreme_numbers(
    tmp_path: Path,
    cells: list[tuple[int, int, float]],
    columns: list[tuple[int, float]],
    spread: float,
    settings: dict[str, float],
) -> None:
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    root = folder(tmp_path / "s", spread)
    table = np.load(root / "poses_bounds.npy")
    for column, value in columns:
        table[:, column] = value
    for row, column, value in cells:
        table[row, column] = value
    np.save(root / "poses_bounds.npy", table)
    scene = verdict(lambda: load(root, **settings), tmp_path)
    if scene is not None:
        assert_usable(scene)


@fuzz
@given(
    turns=st.lists(st.sampled_from(["roll", (1, 0, 0), (0, 1, 0), (0, 0, 1)]), max_size=4),
    angle=st.sampled_from([0.0, 90.0, 180.0]),
    same_place=st.booleans(),
)
@example(turns=["", "roll"], angle=0.0, same_place=True)
def test_cameras_turned_in_odd_ways(
    tmp_path: Path, turns: list[str | tuple[int, int, int]], angle: float, same_place: bool
) -> None:
    """Upside down, rolled, straight up and down, back to back, all at one place."""
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    root = folder(tmp_path / "s", 0.0)
    table = np.load(root / "poses_bounds.npy")
    poses = table[:, :15].reshape(-1, 3, 5)
    if same_place:
        poses[:] = poses[0]
    for i, turn in enumerate(turns):
        if turn == "roll":
            poses[i, :, :2] *= -1  # upside down, about its own axis
        elif turn:
            poses[i, :, :3] = (
                Rotation.from_rotvec(np.array(turn) * angle, degrees=True).apply(poses[i, :, :3].T).T
            )
    np.save(root / "poses_bounds.npy", table)
    scene = verdict(lambda: load(root), tmp_path)
    if scene is not None:
        assert_usable(scene)


@fuzz
@given(st.data())
def test_a_damaged_pose_file(tmp_path: Path, data: st.DataObject) -> None:
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    root = folder(tmp_path / "s")
    file = root / "poses_bounds.npy"
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    scene = verdict(lambda: load(root), tmp_path)
    if scene is not None:
        assert_usable(scene)


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    length = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text.encode("latin1")


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Payload()], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000, 17)}\n") + bytes(136),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 17)}\n") + bytes(136),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 17)}\n") + bytes(136),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 17)}\n", (9, 9)) + bytes(272),
        header("{'descr': '|V1000000000', 'fortran_order': False, 'shape': (2, 17)}\n"),
        header("{'descr': '<U9', 'fortran_order': False, 'shape': (2, 17)}\n") + bytes(9999),
        header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2, 17)}\n") + bytes(9999),
        header("(" * 5000),
        header("__import__('os').system('touch payload_ran')"),
        header("{'descr': 5, 'fortran_order': 5, 'shape': 5}"),
        b"PK\x03\x04" + bytes(100),
        b"",
        pickled(),
    ],
)
def test_pose_files_that_claim_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    root = folder(tmp_path / "s")
    (root / "poses_bounds.npy").write_bytes(content)
    assert verdict(lambda: load(root), tmp_path) is None


@fuzz
@given(st.recursive(st.none() | st.floats() | st.text(st.characters(codec=None)), st.lists), st.binary())
def test_any_captions(tmp_path: Path, value: object, noise: bytes) -> None:
    whole = json.dumps({"source": value, "target": "b"}).encode()
    for content in (whole, json.dumps(value).encode(), noise, whole + noise):
        (tmp_path / "captions.json").write_bytes(content)
        captions = verdict(lambda: read_captions(tmp_path), tmp_path)
        if captions is not None:
            assert all(text.strip() and text.encode() for text in captions)


def test_captions_without_a_bottom(tmp_path: Path) -> None:
    for content in (
        "[" * 100_000,
        '{"source": ' * 50_000,
        "9" * 10_000,
        '{"source": "\\ud800", "target": "b"}',
    ):
        (tmp_path / "captions.json").write_text(content)
        assert verdict(lambda: read_captions(tmp_path)) is None


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """What damages a folder: something else in the place of a file or a folder of it."""

    def damage(root: Path) -> None:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)

    return damage


KINDS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "file": lambda path: path.write_bytes(b"x"),
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize(
    "name", ["\udcff", "a\n", "\x1b[2J", "\u202e", "a" * 210, "é" * 110, "..", "-", " ", "a b", "é"]
)
def test_names_of_views(tmp_path: Path, name: str) -> None:
    root = folder(tmp_path / "s")
    (root / "images" / "view_003.png").rename(root / "images" / f"{name}.png")
    scene = verdict(lambda: load(root), tmp_path)
    if scene is not None:
        runs = Path("/run/renders")
        for view in (*scene.train.names, *scene.test.names):
            assert (runs / f"{view}_panel.png").resolve().parent == runs
            assert f"{view}_photograph.png".isprintable() and len(f"{view}_photograph.png".encode()) < 255


REPLACED = ["poses_bounds.npy", "images", "images/view_000.png"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*REPLACED, "captions.json", "edited", "masks"])
def test_something_else_in_the_place_of_a_file(tmp_path: Path, name: str, kind: str) -> None:
    root = folder(tmp_path / "s")
    replaced(name, KINDS[kind])(root)
    scene = verdict(lambda: load(root), tmp_path)
    if scene is not None:
        assert name not in REPLACED
        assert_usable(scene)


@pytest.mark.parametrize("root", ["", *PATHS])
def test_roots_that_are_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    monkeypatch.chdir(tmp_path)
    scene = verdict(lambda: LLFF(LLFF.Config(root=root)).load(), tmp_path)
    assert scene is None or root == ""  # the sample scene
