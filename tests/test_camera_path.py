"""A camera path passes its keyframes, turns smoothly between them, and is the same when it is read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from ids3d.camera_path import CameraPath, Keyframe, read_camera_path
from ids3d.cameras import look_at
from ids3d.errors import UserError

UP = torch.tensor([0.0, 1.0, 0.0])


def around(angle: float) -> torch.Tensor:
    """The pose at an angle on a circle of radius 2 about the origin, looking inwards."""
    eye = torch.tensor([2 * math.sin(angle), 0.0, 2 * math.cos(angle)])
    return look_at(eye, torch.zeros(3), UP)


PATH = CameraPath(
    tuple(Keyframe(around(a), 40.0 + 10 * i) for i, a in enumerate((0.0, 0.3, 0.6, 0.9))), 3.0, 10
)


def test_it_passes_its_keyframes_at_equal_intervals() -> None:
    cameras = PATH.cameras(48, 64)
    assert len(cameras) == PATH.frames == 31
    for keyframe, frame in zip(PATH.keyframes, (0, 10, 20, 30), strict=True):
        assert torch.allclose(cameras.c2w[frame], keyframe.c2w, atol=1e-5)
        focal = 24 / math.tan(math.radians(keyframe.fov_y) / 2)
        assert float(cameras.fy[frame]) == pytest.approx(focal, rel=1e-5)
    assert (cameras.height, cameras.width, float(cameras.cx[0])) == (48, 64, 32.0)


def test_between_keyframes_on_a_circle_it_stays_near_the_circle() -> None:
    cameras = PATH.cameras(48, 64)
    for i in range(PATH.frames):
        assert torch.allclose(cameras.c2w[i], around(0.03 * i), atol=2e-3)
    turns = cameras.c2w[:, :, :3]
    assert torch.allclose(turns @ turns.transpose(1, 2), torch.eye(3).expand(31, 3, 3), atol=1e-5)


def test_two_keyframes_are_enough() -> None:
    cameras = CameraPath(PATH.keyframes[:2], 1.0, 4).cameras(10, 10)
    assert len(cameras) == 5
    middle = (PATH.keyframes[0].c2w[:, 3] + PATH.keyframes[1].c2w[:, 3]) / 2
    assert torch.allclose(cameras.centres[2], middle, atol=1e-5)


def test_it_is_the_same_when_read_back(tmp_path: Path) -> None:
    PATH.save(tmp_path / "paths" / "a.json")
    found = read_camera_path(tmp_path / "paths" / "a.json")
    assert (found.seconds, found.fps) == (3.0, 10)
    for a, b in zip(found.keyframes, PATH.keyframes, strict=True):
        assert torch.equal(a.c2w.float(), b.c2w) and a.fov_y == b.fov_y


@pytest.mark.parametrize(
    "change",
    [
        {"keyframes": []},
        {"keyframes": [{"c2w": [[1, 0], [0, 1]], "fov_y": 40}] * 2},
        {"keyframes": [{"c2w": [[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "fov_y": 40}] * 2},
        {"keyframes": [{"c2w": [[1, 0, 0, math.nan], [0, 1, 0, 0], [0, 0, 1, 0]], "fov_y": 40}] * 2},
        {"keyframes": [{"c2w": around(0).tolist(), "fov_y": 180}] * 2},
        {"seconds": 0},
        {"seconds": math.inf},
        {"seconds": 1e9},
        {"fps": 0},
        {"fps": "x"},
    ],
)
def test_what_is_no_path_is_refused(tmp_path: Path, change: dict) -> None:
    good = {"seconds": 1, "fps": 4, "keyframes": [{"c2w": around(a).tolist(), "fov_y": 40} for a in (0, 1)]}
    (tmp_path / "a.json").write_text(json.dumps(good))
    assert read_camera_path(tmp_path / "a.json").frames == 5
    (tmp_path / "b.json").write_text(json.dumps({**good, **change}))
    with pytest.raises(UserError, match=r"b\.json is no camera path"):
        read_camera_path(tmp_path / "b.json")
