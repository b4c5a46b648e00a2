"""A camera's way through a scene: keyframes, saved as JSON, and a smooth path through them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.spatial.transform import Rotation, RotationSpline
from torch import Tensor

from ids3d.cameras import Cameras
from ids3d.errors import UserError
from ids3d.files import atomic_write
from ids3d.reading import plain_file

MOST_KEYFRAMES, MOST_FRAMES = 1000, 100_000


@dataclass(frozen=True)
class Keyframe:
    """A camera on the path: its pose `c2w` (3, 4), OpenGL axes, and its vertical field of view in degrees."""

    c2w: Tensor
    fov_y: float


@dataclass(frozen=True)
class CameraPath:
    """Keyframes that are passed at equal intervals.

    Attributes:
        keyframes: two or more.
        seconds: from the first to the last, > 0.
        fps: frames a second.

    Raises ValueError where these do not hold, or a pose is none.
    """

    keyframes: tuple[Keyframe, ...]
    seconds: float = 4.0
    fps: int = 24

    def __post_init__(self) -> None:
        if not 2 <= len(self.keyframes) <= MOST_KEYFRAMES:
            raise ValueError(f"{len(self.keyframes)} keyframes: a path has 2 to {MOST_KEYFRAMES}")
        if not (0 < self.seconds < math.inf and 1 <= self.fps <= 240 and self.frames <= MOST_FRAMES):
            raise ValueError(f"{self.seconds} s at {self.fps} frames a second: at most {MOST_FRAMES} frames")
        for i, keyframe in enumerate(self.keyframes):
            c2w = keyframe.c2w
            if c2w.shape != (3, 4) or not bool(c2w.isfinite().all()):
                raise ValueError(f"keyframe {i}: not a pose of 3 rows with 4 numbers")
            if not torch.allclose(c2w[:, :3] @ c2w[:, :3].T, torch.eye(3).to(c2w), atol=1e-3):
                raise ValueError(f"keyframe {i}: not a rotation")
            if not 0 < keyframe.fov_y < 180:
                raise ValueError(f"keyframe {i}: a field of view of {keyframe.fov_y} degrees")

    @property
    def frames(self) -> int:
        """How many frames there are, with the first and the last keyframe: two or more."""
        return max(2, round(self.seconds * self.fps) + 1)

    def cameras(self, height: int, width: int) -> Cameras:
        """The cameras of all frames: centres on a cubic spline, turning smoothly, pixels square."""
        c2w = torch.stack([keyframe.c2w for keyframe in self.keyframes]).double().numpy()
        at, when = np.arange(len(c2w)), np.linspace(0, len(c2w) - 1, self.frames)
        turns = RotationSpline(at, Rotation.from_matrix(c2w[:, :, :3]))(when).as_matrix()
        centres = CubicSpline(at, c2w[:, :, 3])(when)
        fov_y = PchipInterpolator(at, [math.radians(keyframe.fov_y) for keyframe in self.keyframes])(when)
        focal = torch.tensor(0.5 * height / np.tan(fov_y / 2), dtype=torch.float32)
        poses = torch.tensor(np.concatenate([turns, centres[..., None]], axis=-1), dtype=torch.float32)
        one = torch.ones_like(focal)
        return Cameras(poses, focal, focal.clone(), one * (width / 2), one * (height / 2), height, width)

    def save(self, path: Path) -> None:
        """Write it as JSON. Raises UserError where it cannot be written."""
        keyframes = [{"c2w": k.c2w.tolist(), "fov_y": k.fov_y} for k in self.keyframes]
        text = json.dumps({"seconds": self.seconds, "fps": self.fps, "keyframes": keyframes}, indent=1)
        with atomic_write(path) as file:
            file.write_text(text + "\n", encoding="utf-8")


def read_camera_path(path: Path) -> CameraPath:
    """Read what `CameraPath.save` has written. Raises UserError: it is not there, or something else."""
    try:
        value = json.loads(plain_file(path).read_text(encoding="utf-8"))
        return _path(value)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(
            f"{path} is no camera path as the viewer saves it ({error}): save it there again"
        ) from error


def _path(value: Any) -> CameraPath:
    keyframes = tuple(
        Keyframe(torch.tensor(k["c2w"], dtype=torch.float64), float(k["fov_y"])) for k in value["keyframes"]
    )
    return CameraPath(keyframes, float(value["seconds"]), int(value["fps"]))
