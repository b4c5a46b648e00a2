"""Cameras, undistortion and report against a synthetic model whose cameras, points and projections are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ids3d.cameras import Cameras, project
from ids3d.capture import database, flatten, mapping, transforms
from ids3d.capture.effort import EFFORTS
from ids3d.capture.pictures import Picture, Pictures
from ids3d.capture.report import PLAIN, judge

colmap = pytest.importorskip("pycolmap", reason="needs the extra [capture]")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Eight views of two distorted cameras on a hundred points, and a database of their matches."""
    path = tmp_path_factory.mktemp("synthetic") / database.DATABASE
    options = colmap.SyntheticDatasetOptions(
        num_rigs=2, num_cameras_per_rig=1, num_frames_per_rig=4, num_points3D=100
    )
    options.camera_width, options.camera_height = 640, 480
    options.camera_model_id = colmap.CameraModelId.SIMPLE_RADIAL
    options.camera_params = [700.0, 320.0, 240.0, 0.08]
    colmap.set_random_seed(0)
    with colmap.Database.open(path) as opened:
        model = colmap.synthesize_dataset(options, opened)
    return model, path


def test_flat_cameras_see_the_points_where_the_flat_image_points_are(made: tuple[Any, Path]) -> None:
    model, _ = made
    pinholes = flatten.pinholes(model)
    flat = flatten.flat_model(model, pinholes)
    told = json.loads(json.dumps(transforms.transforms(flat, "images", "p.ply")))
    assert told["camera_model"] == "PINHOLE"
    assert len(told["frames"]) == 8
    by_name = {image.name: image for image in flat.images.values()}
    for frame in told["frames"]:
        held = {**told, **frame}
        assert (held["w"], held["h"]) == (told["w"], told["h"])
        camera = Cameras(
            torch.tensor(frame["transform_matrix"])[None, :3],
            *(torch.tensor([held[key]]) for key in ("fl_x", "fl_y", "cx", "cy")),
            held["h"],
            held["w"],
        )
        image = by_name[frame["file_path"].removeprefix("images/")]
        seen = [point for point in image.points2D if point.has_point3D()]
        points = np.array([flat.points3D[point.point3D_id].xyz for point in seen])
        xy, depth = project(camera, torch.from_numpy(points).float())
        assert bool((depth > 0).all())
        assert np.abs(xy[0].numpy() - [point.xy for point in seen]).max() < 0.01
    assert model.cameras[1].model == colmap.CameraModelId.SIMPLE_RADIAL  # it was copied


def test_a_flat_picture_shows_what_the_pinhole_camera_sees(made: tuple[Any, Path], tmp_path: Path) -> None:
    model, _ = made
    camera = model.cameras[1]
    pinhole = flatten.pinholes(model)[1]
    # A picture whose colour is where its ray goes: x and y at a depth of 1, for which undistortion has no say.
    columns, rows = np.meshgrid(np.arange(640) + 0.5, np.arange(480) + 0.5)
    rays = camera.cam_from_img(np.column_stack([columns.ravel(), rows.ravel()])).reshape(480, 640, 2)
    coded = np.dstack([128 + 200 * rays, np.zeros((480, 640))])
    Image.fromarray(coded.round().clip(0, 255).astype(np.uint8)).save(tmp_path / "a.png")
    seen = np.asarray(
        flatten.flat_picture(tmp_path / "a.png", flatten.source_grid(camera, pinhole)), dtype=float
    )
    assert seen.shape == (pinhole.height, pinhole.width, 3)
    columns, rows = np.meshgrid(np.arange(pinhole.width) + 0.5, np.arange(pinhole.height) + 0.5)
    expected = pinhole.cam_from_img(np.column_stack([columns.ravel(), rows.ravel()])).reshape(
        *seen.shape[:2], 2
    )
    inside = (slice(3, -3), slice(3, -3))
    assert np.abs(seen[..., :2] - (128 + 200 * expected))[inside].max() < 1.6  # grey values: two roundings


def test_all_pictures_have_the_smallest_camera_s_size(made: tuple[Any, Path]) -> None:
    import copy

    model = copy.deepcopy(made[0])
    model.cameras[2].params = [700.0, 320.0, 240.0, 0.2]
    whole = {k: colmap.undistort_camera(colmap.UndistortCameraOptions(), c) for k, c in model.cameras.items()}
    assert whole[1].width != whole[2].width
    pinholes = flatten.pinholes(model)
    smallest = min(c.width for c in whole.values()), min(c.height for c in whole.values())
    assert {(c.width, c.height) for c in pinholes.values()} == {smallest}
    for number, camera in pinholes.items():
        cut = (whole[number].width - smallest[0]) // 2
        assert whole[number].principal_point_x - camera.principal_point_x == cut
    # Cameras of different focal lengths tell them in each frame.
    model.cameras[2].params = [650.0, 320.0, 240.0, 0.08]
    told = transforms.transforms(flatten.flat_model(model, flatten.pinholes(model)), "images", "p.ply")
    assert "fl_x" not in told and len({frame["fl_x"] for frame in told["frames"]}) == 2


def test_the_cameras_are_found_and_the_report_says_so(made: tuple[Any, Path], tmp_path: Path) -> None:
    truth, path = made
    names = sorted(image.name for image in truth.images.values())
    mapping.map_pictures(tmp_path, path, tmp_path, len(names), EFFORTS[0], seed=0)
    models = mapping.read_models(tmp_path)
    assert models[0].num_reg_images() == 8
    found = [models[0].find_image_with_name(name).projection_center() for name in names]
    given = [truth.find_image_with_name(name).projection_center() for name in names]
    away = colmap.align_reconstructions_via_proj_centers(models[0], truth, max_proj_center_error=0.1)
    moved = np.array([away * centre for centre in found])
    assert np.abs(moved - given).max() < 1e-3 * np.ptp(given)

    lost = [Picture("lost.png", "lost.jpg", 1.0, 0, None), Picture("soft.png", "soft.jpg", 0.2, 0, None)]
    pictures = [Picture(name, f"photo {k}", 1.0, 0, None) for k, name in enumerate(names)]
    held = Pictures(640, 480, (*pictures, *lost), False, ("turned",))
    with colmap.Database.open(path) as opened:
        for picture in lost:
            if not any(image.name == picture.name for image in opened.read_all_images()):
                opened.write_image(colmap.Image(name=picture.name, camera_id=1))
    report = judge(held, path, models, flatten.pinholes(models[0])[1])
    assert report.registered == 8 and len(report.pictures) == 10
    assert {m.source: m.why for m in report.missing} == {"lost.jpg": PLAIN, "soft.jpg": "blurred"}
    text = "\n".join(report.lines())
    assert "8 of 10 pictures (80 %)" in text
    assert "lost.jpg" in text and "blurred: soft.jpg" in text and "turned" in text and "texture" in text
    assert len(report.lines()) < 20
    json.dumps(report.to_json())


def test_neighbours_are_told_as_first_to_last(made: tuple[Any, Path]) -> None:
    from ids3d.capture.report import Missing, Report

    sources = [f"{k}.00 s" for k in range(12)]
    missing = [Missing(sources[k], "blurred") for k in (2, 3, 4, 8)]
    report = Report(sources, 8, 10, 0.5, 64, 48, 60.0, 1, [3], missing, [], [], [])
    assert "blurred: 2.00 s to 4.00 s, 8.00 s" in "\n".join(report.lines())
