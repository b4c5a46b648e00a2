"""What a folder is taken for, and what is said of one that is nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from ids3d.data.scenes.auto import Auto
from ids3d.errors import UserError
from ids3d.experiment import load
from ids3d.scene import Scene
from tests.data.scenes import json_scene, llff_folder


def read(root: Path | str, **settings: object) -> Scene:
    return Auto(Auto.Config(root=str(root), **settings)).load()  # type: ignore[arg-type]


def write(root: Path, layout: str) -> None:
    if layout == "blender":
        json_scene.write_blender(root, json_scene.cameras(6, 180.0), {"train": [0, 1, 2, 3], "test": [4]})
    elif layout == "transforms":
        json_scene.write_transforms(root, json_scene.cameras(5))
    elif layout == "colmap":
        json_scene.write_colmap(root / "made", json_scene.cameras(5))
        (root / "made" / "sparse").rename(root / "sparse")
    else:
        llff_folder.write_scene(root, llff_folder.arc_cameras(5), folders={"images_4": (60, 80)})


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["llff"], "llff"),
        (["transforms"], "transforms"),
        (["blender"], "blender"),
        (["colmap", "llff"], "llff"),
        (["llff", "transforms", "colmap"], "transforms"),
        (["blender", "llff"], "blender"),
    ],
)
def test_the_order_of_what_is_tried(
    tmp_path: Path, there: list[str], taken: str, caplog: pytest.LogCaptureFixture
) -> None:
    for layout in there:
        write(tmp_path, layout)
    with caplog.at_level(logging.INFO):
        read(tmp_path)
    said = caplog.records[0].getMessage()
    assert f"taken as {taken}, for its " in said
    for other in there:
        assert (f"is there too (data={other})" in said) is (other != taken)


def test_a_folder_that_is_nothing_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    said = str(caught.value)
    for looked_for in ("transforms_train.json", "transforms.json", "poses_bounds.npy", "COLMAP", "sparse/0"):
        assert looked_for in said
    assert "did you mean" not in said
    write(tmp_path / "fern", "llff")
    with pytest.raises(UserError, match=r"did you mean .*fern\?"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        read(tmp_path / "nowhere")


def test_without_a_root_it_is_the_sample_scene() -> None:
    scene = read("", max_size=16)
    assert len(scene.train) == 21 and scene.truth is not None


def test_settings_in_a_config(tmp_path: Path) -> None:
    write(tmp_path, "llff")
    job = load(
        ["configs/ids-llff.yaml"], [f"data.root={tmp_path}", "data.max_size=40", "data.background=white"]
    )
    assert job.data.type == "auto"  # type: ignore[attr-defined]
    scene = job.data.build().load()  # type: ignore[attr-defined]
    assert scene.train.images.shape[1:3] == (30, 40) and scene.bounds.background == (1, 1, 1)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["data.model=sparse/1"], "data.model .*a setting of data=colmap, not of data=auto"),
        (["data=llff", "data.test_views=3"], "data.test_views .*a setting of data=blender, not of data=llff"),
        (["data.max_sice=3"], "did you mean max_size"),
    ],
)
def test_settings_of_one_format_lead_to_it(words: list[str], hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        load(["configs/ids-llff.yaml"], words).check()


def test_shared_settings_stay_when_the_format_is_named(tmp_path: Path) -> None:
    config = tmp_path / "scene.yaml"
    config.write_text("name: x\ndata: {type: blender, root: /a, max_size: 99, test_views: 3}\n")
    settings = load([config], ["data=transforms"]).data.settings()  # type: ignore[attr-defined]
    assert settings.root == "/a" and settings.max_size == 99


def test_folders_called_edited_and_masks_stop_nobody(tmp_path: Path) -> None:
    write(tmp_path, "llff")
    for name in ("masks", "edited"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "something.txt").touch()
    assert read(tmp_path).truth is None
    texts = {"source": "a cube", "target": "a ball"}
    (tmp_path / "captions.json").write_text(json.dumps(texts))
    assert read(tmp_path).truth is None and read(tmp_path).captions == ("a cube", "a ball")
    with pytest.raises(UserError, match=r"edited/view_000\.png.*data\.truth=false"):
        read(tmp_path, truth=True)
    (tmp_path / "captions.json").write_text(json.dumps({**texts, "world": "tabletop"}))
    with pytest.raises(UserError, match=r"edited/view_000\.png"):
        read(tmp_path)
    assert read(tmp_path, truth=False).truth is None
    (tmp_path / "captions.json").unlink()
    for name in ("masks", "edited"):
        Image.new("RGB", (80, 60), "white").save(tmp_path / name / "view_000.png")
    truth = read(tmp_path, truth=True).truth
    assert truth is not None and truth.masks.all() and truth.images.min() == 1
