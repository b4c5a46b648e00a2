"""nerfstudio folders read back through the project's own loader, and by what nerfstudio's documentation says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ids3d.cameras import Cameras
from ids3d.data.scenes.points import read_ply
from ids3d.data.scenes.transforms import Transforms
from ids3d.errors import UserError
from ids3d.scene import Scene
from ids3d.systems.export.fields import RunFields, Units
from ids3d.systems.export.nerfstudio import Nerfstudio
from tests.systems.export.made import CENTRE, RADIUS, TURN, ball


def read_back(root: Path) -> Scene:
    """In the files' own units and axes."""
    return Transforms(Transforms.Config(root=str(root), recentre=False, box_size=0)).load()


def same(cameras: Cameras, others: Cameras) -> bool:
    return all(
        torch.allclose(getattr(cameras, name), getattr(others, name), atol=1e-5)
        for name in ("c2w", "fx", "fy", "cx", "cy")
    )


@pytest.mark.parametrize("units", ["scene", "files"])
def test_it_reads_back_with_the_same_cameras_and_pictures(units: Units, tmp_path: Path) -> None:
    fields = ball()
    said = Nerfstudio(units=units).write(fields, tmp_path)
    scene, back = fields.scene, read_back(tmp_path)
    assert said.startswith("10 views of 24x24 pixels, ")
    for views, found in ((scene.train, back.train), (scene.test, back.test)):
        assert found.names == views.names
        cameras = found.cameras
        if units == "files":  # scene = 0.25 TURN (world - (1, 2, 3))
            turn = TURN.float()
            centres = 0.25 * (cameras.centres - torch.tensor([1.0, 2.0, 3.0])) @ turn.T
            cameras = replace(
                cameras, c2w=torch.cat([turn @ cameras.c2w[:, :, :3], centres[..., None]], dim=-1)
            )
        assert same(cameras, views.cameras)
        for i in range(len(views)):
            rendered = fields.source.render(views.cameras[i]).rgb
            assert (found.images[i] - rendered).abs().max() <= 0.5 / 255 + 1e-6


def test_depth_maps_hold_the_balls_depth_along_the_axis(tmp_path: Path) -> None:
    fields = ball(sharpness=400.0)
    Nerfstudio(opacity=0.99).write(fields, tmp_path)
    said = json.loads((tmp_path / "transforms.json").read_text())
    assert said["camera_model"] == "OPENCV" and (said["w"], said["h"]) == (24, 24)
    for frame in said["frames"]:
        with Image.open(tmp_path / frame["depth_file_path"]) as image:
            assert image.mode.startswith("I;16")
            depth = np.asarray(image).astype(float) / 1000
        c2w = np.array(frame["transform_matrix"])
        assert c2w.shape == (4, 4) and c2w[3].tolist() == [0, 0, 0, 1]
        rows, cols = np.nonzero(depth)
        assert len(rows) > 50
        x, y = (cols + 0.5 - said["cx"]) / said["fl_x"], (rows + 0.5 - said["cy"]) / said["fl_y"]
        local = np.stack([x, -y, -np.ones_like(x)], axis=-1) * depth[rows, cols, None]
        points = local @ c2w[:3, :3].T + c2w[:3, 3]
        assert np.abs(np.linalg.norm(points - CENTRE.numpy(), axis=1) - RADIUS).max() < 0.02
    points = read_ply(tmp_path / said["ply_file_path"])
    assert ((points - CENTRE).norm(dim=1) - RADIUS).abs().max() < 0.02


def test_cameras_of_several_lenses_are_given_one_by_one(tmp_path: Path) -> None:
    fields = ball()
    train = fields.scene.train
    cameras = replace(train.cameras, fx=train.cameras.fx * torch.linspace(1, 1.2, len(train)))
    scene = replace(fields.scene, train=replace(train, cameras=cameras))
    Nerfstudio().write(replace(fields, scene=scene), tmp_path)
    said = json.loads((tmp_path / "transforms.json").read_text())
    assert "fl_x" not in said and len({frame["fl_x"] for frame in said["frames"]}) == len(train)
    assert same(read_back(tmp_path).train.cameras, cameras)


def test_a_size_of_its_own_keeps_the_field_of_view(tmp_path: Path) -> None:
    fields = ball()
    Nerfstudio(size=48).write(fields, tmp_path)
    back = read_back(tmp_path)
    assert same(back.train.cameras, fields.scene.train.cameras.resized(48, 48))


def test_held_out_views_called_as_training_views_are_told_apart(tmp_path: Path) -> None:
    fields = ball()
    test = replace(fields.scene.test, names=fields.scene.train.names[: len(fields.scene.test)])
    Nerfstudio().write(replace(fields, scene=replace(fields.scene, test=test)), tmp_path)
    back = read_back(tmp_path)
    assert back.test.names == tuple(f"test-{name}" for name in test.names)
    assert len(list((tmp_path / "images").iterdir())) == 10


def test_depths_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    fields = ball()
    far = replace(fields.scene, to_scene=replace(fields.scene.to_scene, scale=0.02))
    with pytest.raises(UserError, match=r"units away, more than the 65\.535 .* use units=scene"):
        Nerfstudio(units="files").write(RunFields(far, fields.source, None, fields.device), tmp_path)
