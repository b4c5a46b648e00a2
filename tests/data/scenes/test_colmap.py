"""COLMAP's models: what is read of them, against pycolmap's own projection; what is wrong is one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ids3d.data.scenes.colmap import MODELS, Colmap, read_model
from ids3d.errors import UserError
from ids3d.scene import Scene
from tests.data.scenes.json_scene import cameras, write_colmap, write_images

pycolmap = pytest.importorskip("pycolmap")

PARAMETERS = {
    "SIMPLE_PINHOLE": "90 40 30",
    "PINHOLE": "90 91 40 30",
    "SIMPLE_RADIAL": "90 40 30 -0.1",
    "RADIAL": "90 40 30 -0.1 0.02",
    "OPENCV": "90 91 40 30 -0.1 0.02 0.001 -0.002",
    "FULL_OPENCV": "90 91 40 30 -0.1 0.02 0.001 -0.002 0.01 0.02 0.01 0.003",
    "SIMPLE_RADIAL_FISHEYE": "90 40 30 0.02",
    "RADIAL_FISHEYE": "90 40 30 0.02 0.01",
    "OPENCV_FISHEYE": "90 91 40 30 0.02 0.01 -0.001 0.002",
}


def load(root: Path, **settings: object) -> Scene:
    return Colmap(Colmap.Config(root=str(root), **settings)).load()  # type: ignore[arg-type]


def to_binary(folder: Path) -> None:
    pycolmap.Reconstruction(str(folder)).write_binary(str(folder))
    for file in folder.glob("*.txt"):
        file.unlink()


def test_every_model_that_is_read_is_tried() -> None:
    assert set(PARAMETERS) == set(MODELS)


@pytest.mark.parametrize("model", PARAMETERS)
def test_lenses_and_poses_are_those_of_pycolmap(tmp_path: Path, model: str) -> None:
    folder = write_colmap(tmp_path, cameras(), model, PARAMETERS[model])
    images = pycolmap.Reconstruction(str(folder)).images.values()
    points = np.array([[1.0, 2, 3], [1.3, 2.2, 3.1], [0.8, 1.7, 2.6]])
    views = {view.name: view for view in read_model(folder)}
    assert len(views) == 10
    for image in images:
        view = views[image.name]
        local = (torch.from_numpy(points) - view.c2w[:, 3]) @ view.c2w[:, :3]
        plane = torch.stack([local[:, 0], -local[:, 1]], dim=-1) / -local[:, 2:]
        expected = np.stack([image.project_point(point) for point in points])
        np.testing.assert_allclose(view.lens.pixels(plane).numpy(), expected, atol=1e-6)
    assert (views["view_000.png"].lens.distortion is None) is model.endswith("PINHOLE")
    assert load(tmp_path).test.names == ("view_000", "view_008")


@pytest.mark.parametrize("binary", [False, True])
def test_depths_are_of_the_points(tmp_path: Path, binary: bool) -> None:
    folder = write_colmap(tmp_path, cameras())
    if binary:
        to_binary(folder)
    scene = load(tmp_path, near_margin=1.0, far_margin=1.0)
    scale = scene.to_scene.scale
    assert scene.bounds.near / scale == pytest.approx(2.0, abs=0.01)  # 2, 2.1, ... 3.9 ahead of each view
    assert scene.bounds.free_space is not None
    torch.testing.assert_close(
        scene.bounds.free_space.depth / scale, torch.full((8,), 2.0), atol=0.01, rtol=0
    )


def test_a_view_without_points_takes_the_others_depths(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, cameras())
    lines = (folder / "images.txt").read_text().splitlines()
    lines[3] = ""
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    points = [" ".join(line.split()[:8]) for line in (folder / "points3D.txt").read_text().splitlines()]
    (folder / "points3D.txt").write_text("\n".join(points) + "\n")
    scene = load(tmp_path, near_margin=1.0)
    assert scene.bounds.near / scene.to_scene.scale == pytest.approx(2.0, abs=0.01)


def test_a_model_without_points_is_framed_by_its_cameras(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, cameras())
    lines = (folder / "images.txt").read_text().splitlines()
    (folder / "images.txt").write_text("\n\n".join(lines[::2]) + "\n\n")
    (folder / "points3D.txt").write_text("")
    scene = load(tmp_path)
    assert scene.bounds.near < 3 * scene.to_scene.scale < scene.bounds.far


def test_images_that_are_not_in_the_model_do_not_count(tmp_path: Path) -> None:
    write_colmap(tmp_path, cameras(4))
    (tmp_path / "images" / "view_999.png").write_bytes(b"not even an image")
    assert len(load(tmp_path).train) == 3


@pytest.mark.parametrize("place", ["sparse", "colmap/sparse/0", "."])
def test_other_places_of_a_model(tmp_path: Path, place: str) -> None:
    folder = write_colmap(tmp_path, cameras(3))
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.rename(tmp_path / place / file.name)
    assert len(load(tmp_path).train) == 2


def test_a_model_and_images_of_other_names(tmp_path: Path) -> None:
    (write_colmap(tmp_path, cameras(3))).rename(tmp_path / "sparse" / "7")
    with pytest.raises(UserError, match="there is no COLMAP model"):
        load(tmp_path)
    assert len(load(tmp_path, model="sparse/7").train) == 2
    (tmp_path / "images").rename(tmp_path / "input")
    write_images(tmp_path / "input_2", 3, (30, 40))
    with pytest.raises(UserError, match=r"there is no image .*images/view_000\.png"):
        load(tmp_path, model="sparse/7")
    assert load(tmp_path, model="sparse/7", images="input").train.images.shape == (2, 60, 80, 3)
    assert load(tmp_path, model="sparse/7", images="input", max_size=40).train.images.shape == (2, 30, 40, 3)


def test_without_pycolmap_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_colmap(tmp_path, cameras(3))
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[capture\]'") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def lines(name: str, change: Any) -> Any:
    def damage(folder: Path) -> None:
        path = folder / f"{name}.txt"
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "points3D.txt").unlink(), "there is no COLMAP model"),
        (
            lines("cameras", lambda _: ["1 FOV 80 60 90 90 40 30 0.1"]),
            "model FOV are not read .*image_undistorter",
        ),
        (lines("cameras", lambda _: ["1 PINHOLE 80 60 90 90 40"]), "cannot read the COLMAP model"),
        (lines("cameras", lambda _: ["1 PINHOLE 80 60 0 90 40 30"]), "focal length that is not positive"),
        (lines("cameras", lambda _: ["1 PINHOLE 80 60 nan 90 40 30"]), "cannot read|not finite"),
        (lines("cameras", lambda _: ["1 PINHOLE 80 40 90 90 40 30"]), "80x60 pixels, which is no reduction"),
        (lines("cameras", lambda _: ["1 SIMPLE_RADIAL 80 60 90 40 30 -1e9"]), "leaves nothing of the image"),
        (lines("cameras", lambda _: []), "cannot read the COLMAP model"),
        (lines("images", lambda old: old[:5]), "cannot read the COLMAP model"),
        (
            lines("images", lambda old: [old[0].replace("view_000.png", "../../x.png"), *old[1:]]),
            "not in the scene's",
        ),
        (
            lines("images", lambda old: [old[0].replace("view_000", "view_777"), *old[1:]]),
            "no image .*view_777",
        ),
        (lines("points3D", lambda old: ["1 nonsense", *old]), "cannot read the COLMAP model"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, damage: Any, message: str) -> None:
    damage(write_colmap(tmp_path, cameras()))
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["images.bin", "points3D.bin"])
@pytest.mark.parametrize("damage", ["cut", "count", "longer", "empty"])
def test_binary_files_that_are_not_as_long_as_they_say(tmp_path: Path, name: str, damage: str) -> None:
    """pycolmap would read on for ever."""
    folder = write_colmap(tmp_path, cameras(3))
    to_binary(folder)
    file = folder / name
    data = file.read_bytes()
    file.write_bytes(
        {
            "cut": data[: len(data) // 2],
            "count": (10**15).to_bytes(8, "little") + data[8:],
            "longer": data + b"x",
            "empty": b"",
        }[damage]
    )
    with pytest.raises(UserError, match=f"cannot read .*{name}: it is cut short or damaged"):
        load(tmp_path)
