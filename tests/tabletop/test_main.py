"""The command line: what it writes, and that a user's mistake is one line and exit code 2."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ids3d.cli import run_command
from ids3d.tabletop.__main__ import main

SCENE = ["scene", "--seed", "1000007", "--size", "16", "--supersampling", "1"]


def test_scenes_in_all_layouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run_command(main, [*SCENE, "--views", "4", "--out", str(tmp_path / "llff"), "--edit", "remove"]) == 0
    )
    captions = json.loads((tmp_path / "llff" / "captions.json").read_text())
    assert captions["world"] == "tabletop"
    assert captions["target"] in capsys.readouterr().out
    assert np.load(tmp_path / "llff" / "poses_bounds.npy").shape == (4, 17)

    flags = ["--layout", "blender", "--views", "3", "--room"]
    assert run_command(main, [*SCENE, *flags, "--out", str(tmp_path / "blender")]) == 0
    frames = {
        split: json.loads((tmp_path / "blender" / f"transforms_{split}.json").read_text())["frames"]
        for split in ("train", "val", "test")
    }
    assert {split: len(frames[split]) for split in frames} == {"train": 3, "val": 10, "test": 10}
    for layout, flags in (
        ("transforms", ["--fisheye"]),
        ("colmap", ["--around", "--distortion", "-0.1", *"000"]),
    ):
        where = ["--layout", layout, "--views", "2", "--out", str(tmp_path / layout)]
        assert run_command(main, [*SCENE, *where, *flags]) == 0
    assert (
        json.loads((tmp_path / "transforms" / "transforms.json").read_text())["camera_model"]
        == "OPENCV_FISHEYE"
    )
    assert " OPENCV 16 16 " in (tmp_path / "colmap" / "sparse" / "0" / "cameras.txt").read_text()
    places = {tuple(np.array(f["transform_matrix"]).ravel()) for split in frames.values() for f in split}
    assert len(places) == 23


def test_edits_and_sheets(tmp_path: Path) -> None:
    edits = ["edits", "--count", "2", "--kinds", "floor", "add", "--size", "16"]
    assert run_command(main, [*edits, "--out", str(tmp_path / "edits")]) == 0
    with (tmp_path / "edits" / "prompts.csv").open() as file:
        assert [row["kind"] for row in csv.DictReader(file)] == ["floor", "add"]
    sheet = ["sheet", "--seeds", "5:8", "--size", "16", "--columns", "2"]
    assert run_command(main, [*sheet, "--out", str(tmp_path / "sheet.png")]) == 0
    assert run_command(main, [*sheet, "--edit", "recolour", "--out", str(tmp_path / "edits.png")]) == 0
    one, pairs = (Image.open(tmp_path / name).size for name in ("sheet.png", "edits.png"))
    assert one[0] >= 2 * (16 + 4)
    assert pairs[0] >= 2 * (3 * 16 + 4)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "COMMAND"),
        ("scene --out x", "--seed"),
        ("scene --seed 1 --edit paint --out x", "paint"),
        ("scene --seed 1 --edit remove --objects 1 --out x", "can't be removed"),
        ("scene --seed 1 --edit add --objects 3 --out x", "three objects at most"),
        ("scene --seed 1 --views 0 --out x", "1 or more"),
        ("scene --seed 1 --size many --out x", "many"),
        ("scene --seed 1 --out .", "not an empty folder"),
        ("scene --seed 1 --layout blender --edit floor --out x", "--room"),
        ("scene --seed 1 --layout llff --fisheye --out x", "has no lens distortion"),
        (
            "scene --seed 1 --size 8 --layout colmap --distortion -9 0 0 0 --out x",
            "choose a weaker distortion",
        ),
        ("sheet --seeds 9:3 --out x.png", "no seeds"),
        ("sheet --seeds 1:2 --size 8 --out x.what", "x.what"),
        ("evaluate --json x --prior nowhere", "no prior at nowhere"),
        ("evaluate --json x --prior . --only clip", "no tabletop CLIP"),
        ("evaluate --json x --prior . --only vae", "train it first"),
        ("evaluate --json x --prior . --only edits", "train it first"),
        ("cosines --prior .", "no autoencoder in"),
        ("sheet --seeds 1:2 --world dark --out x.png", "dark"),
    ],
)
def test_a_users_mistake_is_one_line(
    command: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    assert run_command(main, command.split()) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert said[-1].startswith("error: ")
    assert all("error" not in line for line in said[:-1])
