"""Between viser's cameras and ours: OpenCV's axes there (z forward), OpenGL's here (z back)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import viser.transforms
from torch import Tensor

from ids3d.cameras import Cameras, closest_to_axes
from ids3d.scene import Scene
from ids3d.systems.viewer.display import Viewpoint

FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
LARGEST_WINDOW = 8192


@dataclass(frozen=True)
class Look:
    """A camera as viser's orbit sees it: where it is, what it turns about, and its vertical field of view, radians."""

    position: tuple[float, float, float]
    look_at: tuple[float, float, float]
    up: tuple[float, float, float]
    fov: float


def viewpoint_of(camera: viser.CameraHandle) -> Viewpoint | None:
    """Where a browser looks from; None where what it says makes no sense."""
    pose = np.concatenate([camera.wxyz, camera.position, [camera.fov]])
    if not np.isfinite(pose).all() or np.linalg.norm(camera.wxyz) < 1e-6 or not 0.01 < camera.fov < 3.1:
        return None
    turn = torch.tensor(viser.transforms.SO3(camera.wxyz / np.linalg.norm(camera.wxyz)).as_matrix())
    c2w = torch.cat([turn.float() @ FLIP, torch.tensor(camera.position)[:, None].float()], dim=1)
    width, height = (min(max(int(n), 1), LARGEST_WINDOW) for n in (camera.image_width, camera.image_height))
    return Viewpoint(c2w, math.degrees(camera.fov), width, height)


def wxyz_of(c2w: Tensor) -> np.ndarray:
    """The orientation of a pose (3, 4) as viser's quaternion."""
    turn = c2w[:, :3].double() @ FLIP.double()
    return viser.transforms.SO3.from_matrix(turn.numpy()).wxyz


def fov_of(cameras: Cameras, index: int, aspect: float = math.inf) -> float:
    """The vertical field of view, radians, with which a window shows all of a camera's image.

    Args:
        aspect: the window's width by its height.
    """
    up = 0.5 * cameras.height / float(cameras.fy[index])
    across = 0.5 * cameras.width / float(cameras.fx[index])
    return 2 * math.atan(max(up, across / aspect))


def upright(scene: Scene) -> Tensor:
    """The direction (3,) that is up for the training cameras: across their right axes, which are level.

    Of cameras that look down, the mean of the up axes leans back, and an orbit about it would tilt the scene. Where the
    right axes are all but parallel, they do not say which direction that is, and it stays near that mean.
    """
    c2w = scene.train.cameras.c2w.double()
    mean, right = c2w[:, :, 1].mean(dim=0), c2w[:, :, 0]
    if float(mean.norm()) < 1e-3:
        return torch.tensor([0.0, 1.0, 0.0])
    spread = right.T @ right / len(right)
    up = torch.linalg.solve(spread + 1e-3 * torch.eye(3, dtype=spread.dtype), mean)
    return (up / up.norm()).float()


def orbit_distance(scene: Scene, c2w: Tensor) -> float:
    """How far before a camera lies what it is to turn about, in scene units."""
    bounds = scene.bounds
    if scene.layout == "all around":
        ahead = (
            closest_to_axes(scene.train.cameras.centres, scene.train.cameras.forward) - c2w[:, 3]
        ) @ -c2w[:, 2]
        if bounds.near < float(ahead) < bounds.far:
            return float(ahead)
    return 2 / (1 / max(bounds.near, 1e-3 * bounds.far) + 1 / bounds.far)


def first_view(scene: Scene) -> Cameras:
    """The cameras whose first one is a browser's at first: those held out, where there are any."""
    return (scene.test if len(scene.test) else scene.train).cameras


def start_of(scene: Scene) -> Look:
    """Where a browser looks from at first."""
    cameras = first_view(scene)
    c2w = cameras.c2w[0]
    look_at = c2w[:, 3] - orbit_distance(scene, c2w) * c2w[:, 2]
    position, at, up = (tuple(v.tolist()) for v in (c2w[:, 3], look_at, upright(scene)))
    return Look(position, at, up, fov_of(cameras, 0))


def frustum_scale(scene: Scene) -> float:
    """The length of a frustum that neither hides its neighbours nor is lost, in scene units."""
    centres = scene.train.cameras.centres
    if len(centres) < 2:
        return 0.1
    distances = torch.cdist(centres, centres) + torch.eye(len(centres)) * 1e9
    return float(0.4 * distances.min(dim=1).values.median().clamp(min=1e-3))
