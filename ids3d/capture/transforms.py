"""A scene's cameras as nerfstudio's `transforms.json`.

https://docs.nerf.studio/quickstart/data_conventions.html: one pinhole camera a frame, camera to world, OpenGL axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SHARED = ("w", "h", "fl_x", "fl_y", "cx", "cy")


def transforms(model: Any, folder: str, points: str) -> dict[str, object]:
    """What `transforms.json` says of a COLMAP model of PINHOLE cameras.

    Args:
        model: a pycolmap Reconstruction.
        folder, points: where the pictures and the model's points, a PLY file, are, relative to the file.

    Returns:
        Intrinsics, in pixels from the top-left corner of the picture, stand once where all frames share them, else in
        each frame. The world is the model's own: its axes, its origin, its unit.
    """
    frames = []
    for image in sorted((i for i in model.images.values() if i.has_pose), key=lambda i: i.name):
        frame: dict[str, object] = {
            "file_path": f"{folder}/{image.name}",
            "transform_matrix": camera_to_world(image).tolist(),
        }
        frames.append(intrinsics(model.cameras[image.camera_id]) | frame)
    shared = {key: frames[0][key] for key in SHARED if len({frame[key] for frame in frames}) == 1}
    if len(shared) == len(SHARED):
        frames = [{key: value for key, value in frame.items() if key not in shared} for frame in frames]
    else:
        shared = {}
    return {"camera_model": "PINHOLE", **shared, "ply_file_path": points, "frames": frames}


def intrinsics(camera: Any) -> dict[str, object]:
    """Size, focal lengths and principal point of a PINHOLE camera under nerfstudio's names."""
    fx, fy, cx, cy = (float(value) for value in camera.params)
    return {"w": camera.width, "h": camera.height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}


def camera_to_world(image: Any) -> np.ndarray:
    """(4, 4): from OpenGL's camera axes (right, up, back) to the world; COLMAP's are right, down, forward."""
    to_world = np.eye(4)
    to_world[:3] = image.cam_from_world().inverse().matrix()
    return to_world @ np.diag([1.0, -1.0, -1.0, 1.0])
