"""What is wrong with an LLFF folder is said in one line, and settings are checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ids3d.data.scenes.llff import LLFF
from ids3d.errors import UserError
from ids3d.scene import Scene
from tests.data.scenes.llff_folder import arc_cameras, write_scene


def load(root: Path, **settings: object) -> Scene:
    return LLFF(LLFF.Config(root=str(root), **settings)).load()  # type: ignore[arg-type]


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
        (reshape_table(10, 16), r"shape \(10, 16\), expected \(views, 17\)"),
        (reshape_table(17), r"shape \(17,\)"),
        (reshape_table(1, 17), "at least 2"),
        (reshape_table(0, 17), "at least 2"),
        (reshape_table(12, 17), "view 0 has axes"),
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
        (overwrite("captions.json", b"{"), "captions.json cannot be read"),
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
