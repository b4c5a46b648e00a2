"""Lens distortion undone: pictures, cameras and a COLMAP model as pinhole cameras of one size have them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ids3d.capture.colmap import pycolmap


def pinholes(model: Any) -> dict[int, Any]:
    """For each camera of a model, the pinhole camera of the largest picture that has no blank parts.

    All are of one size, the smallest of them, with their principal points where COLMAP puts them, less what is cut
    off evenly on both sides.

    Returns: pycolmap cameras of the model PINHOLE by the ids of the model's.
    """
    colmap = pycolmap()
    made = {}
    for number, camera in model.cameras.items():
        made[number] = colmap.undistort_camera(colmap.UndistortCameraOptions(), camera)
        made[number].camera_id = number
    width, height = (min(getattr(camera, side) for camera in made.values()) for side in ("width", "height"))
    for camera in made.values():
        camera.principal_point_x -= (camera.width - width) // 2
        camera.principal_point_y -= (camera.height - height) // 2
        camera.width, camera.height = width, height
    return made


def flat_model(model: Any, pinhole: dict[int, Any]) -> Any:
    """A copy of a model with these pinhole cameras in place of its own, and its image points moved accordingly."""
    flat = copy.deepcopy(model)
    for image in flat.images.values():
        points = np.array([point.xy for point in image.points2D]).reshape(-1, 2)
        rays = model.cameras[image.camera_id].cam_from_img(points)
        moved = pinhole[image.camera_id].img_from_cam(np.column_stack([rays, np.ones(len(rays))]))
        for point, xy in zip(image.points2D, moved, strict=True):
            point.xy = xy
    for number, camera in flat.cameras.items():
        camera.model = pinhole[number].model
        camera.width, camera.height = pinhole[number].width, pinhole[number].height
        camera.params = pinhole[number].params
    return flat


def source_grid(camera: Any, pinhole: Any) -> Tensor:
    """Where each pixel of the pinhole camera lies in the camera's picture.

    Returns: (1, height, width, 2) float32, x and y as `torch.nn.functional.grid_sample` takes them without
    `align_corners`: -1 and 1 are the picture's borders.
    """
    columns, rows = np.meshgrid(np.arange(pinhole.width) + 0.5, np.arange(pinhole.height) + 0.5)
    rays = pinhole.cam_from_img(np.column_stack([columns.ravel(), rows.ravel()]))
    places = camera.img_from_cam(np.column_stack([rays, np.ones(len(rays))]))
    grid = 2 * places / np.array([camera.width, camera.height]) - 1
    return torch.from_numpy(grid).float().reshape(1, pinhole.height, pinhole.width, 2)


def flat_picture(path: Path, grid: Tensor) -> Image.Image:
    """The picture of a file as the pinhole camera of a grid sees it (bicubic)."""
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32)).permute(2, 0, 1)
    warped = F.grid_sample(pixels[None], grid, mode="bicubic", padding_mode="border", align_corners=False)
    values = warped[0].permute(1, 2, 0).clamp(0, 255).round().to(torch.uint8).numpy()
    return Image.fromarray(values)
