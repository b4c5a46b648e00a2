"""Scenes as COLMAP leaves them: a sparse model, binary or text, beside the folder of its images.

COLMAP's world-to-camera poses have OpenCV's axes (x right, y down, z ahead); its cameras and pixels are those of
`ids3d.lenses`. Each view's depths are of the points that it saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ids3d.capture.colmap import pycolmap
from ids3d.data.scenes.capture import Capture, build, root_of
from ids3d.data.scenes.colmap_files import FILES, check_binary
from ids3d.data.scenes.depths import depths_of_points
from ids3d.data.scenes.image_folders import choose_folder, named_images
from ids3d.data.scenes.poses import check_cameras
from ids3d.data.scenes.protocol import SceneConfig
from ids3d.data.scenes.splitting import every_nth
from ids3d.errors import UserError
from ids3d.lenses import Distortion, Fisheye, Lens, RadialTangential
from ids3d.reading import is_plain
from ids3d.registry import register
from ids3d.scene import Scene

PLACES = ("sparse/0", "sparse", "colmap/sparse/0", ".")

# Of each model that is read: how many focal lengths it has, and what its further parameters make.
MODELS: dict[str, tuple[int, Callable[..., Distortion | None]]] = {
    "SIMPLE_PINHOLE": (1, lambda: None),
    "PINHOLE": (2, lambda: None),
    "SIMPLE_RADIAL": (1, RadialTangential),
    "RADIAL": (1, RadialTangential),
    "OPENCV": (2, RadialTangential),
    "FULL_OPENCV": (2, RadialTangential),
    "SIMPLE_RADIAL_FISHEYE": (1, Fisheye),
    "RADIAL_FISHEYE": (1, Fisheye),
    "OPENCV_FISHEYE": (2, Fisheye),
}


@register("scene", "colmap")
class Colmap:
    """A sparse model of COLMAP's and its images, every `holdout`-th by name held out."""

    @dataclass
    class Config(SceneConfig):
        model: str = (
            ""  # the model's folder, within root; empty: sparse/0, sparse, colmap/sparse/0 or root itself
        )
        images: str = (
            "images"  # the folder of the images, within root; the same with _2, _4, ... for reduced ones
        )

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def load(self) -> Scene:
        """Read the scene from disk, and say in one line what was found.

        Raises:
            UserError: pycolmap is not installed; the folder, the model, an image, or how they go together.
        """
        cfg, root = self.cfg, root_of(self.cfg)
        model = find_model(root, cfg.model)
        if model is None:
            places = cfg.model or ", ".join(PLACES)
            raise UserError(
                f"{root}: there is no COLMAP model ({', '.join(FILES)}, .bin or .txt) in {places}"
            )
        views = read_model(model)
        c2w = torch.stack([view.c2w for view in views])
        lenses = tuple(view.lens for view in views)
        check_cameras(model, c2w, lenses, "right, up, back, centre")
        points = [view.points for view in views]
        offsets = np.cumsum([0, *map(len, points)])
        seen = [torch.arange(a, b) for a, b in pairwise(offsets)]
        folders = named_images(root, [f"{cfg.images}/{view.name}" for view in views], model)
        capture = Capture(
            root=root,
            source=model,
            c2w=c2w,
            lenses=lenses,
            choice=choose_folder(root, folders, lenses[0], cfg),
            keys=tuple(Path(view.name).with_suffix("").as_posix() for view in views),
            held_out=every_nth(len(views), cfg.holdout),
            bounds=depths_of_points(torch.cat(points), c2w, lenses, seen),
        )
        return build(capture, cfg)


@dataclass(frozen=True)
class ModelView:
    """An image of a model: name, lens, pose (3, 4) float64 in OpenGL axes, and points (p, 3) float64 that it saw."""

    name: str
    lens: Lens
    c2w: Tensor
    points: Tensor


def find_model(root: Path, place: str = "") -> Path | None:
    """The folder of a scene's model; None where there is none."""
    folders = [root / name for name in ((place,) if place else PLACES)]
    return next((folder for folder in folders if suffix_of(folder)), None)


def suffix_of(folder: Path) -> str:
    """.bin or .txt, as the model in a folder is; "" where there is none."""
    whole = [s for s in (".bin", ".txt") if all((folder / f"{name}{s}").is_file() for name in FILES)]
    return whole[0] if whole else ""


def read_model(folder: Path) -> list[ModelView]:
    """The registered images of a model, by name. Raises UserError: pycolmap is not installed, or cannot read it."""
    colmap = pycolmap()
    if suffix_of(folder) == ".bin":
        check_binary(folder)
    try:
        model = colmap.Reconstruction(str(folder))
        images = sorted((i for i in model.images.values() if i.has_pose), key=lambda image: image.name)
        views = [_view(image, model, folder) for image in images]
    except UserError:
        raise
    except Exception as error:  # COLMAP's checks become exceptions of many kinds
        raise UserError(f"cannot read the COLMAP model {folder}: {error}") from error
    if not views:
        raise UserError(f"the COLMAP model {folder} has no registered image")
    return views


def _view(image: Any, model: Any, folder: Path) -> ModelView:
    name = image.name
    if not is_plain(name) or not name:
        raise UserError(f"{folder}: an image's name is no text")
    world_to_camera = torch.from_numpy(np.array(image.cam_from_world().matrix(), dtype=np.float64))
    turn = world_to_camera[:, :3].T
    centre = -turn @ world_to_camera[:, 3:]
    c2w = torch.cat([turn * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64), centre], dim=1)
    points = [model.points3D[p.point3D_id].xyz for p in image.points2D if p.has_point3D()]
    places = torch.from_numpy(np.array(points, dtype=np.float64).reshape(-1, 3))
    return ModelView(name, _lens(image.camera, folder), c2w, places)


def _lens(camera: Any, folder: Path) -> Lens:
    name, values = camera.model_name, [float(value) for value in camera.params]
    if name not in MODELS:
        raise UserError(
            f"{folder}: cameras of model {name} are not read (those read: {', '.join(MODELS)}); COLMAP's "
            "image_undistorter makes PINHOLE ones of them"
        )
    focal_lengths, make = MODELS[name]
    fx, fy, (cx, cy, *rest) = values[0], values[focal_lengths - 1], values[focal_lengths:]
    undistorted = not isinstance(make(*rest), Fisheye) and not any(rest)
    return Lens(camera.width, camera.height, fx, fy, cx, cy, None if undistorted else make(*rest))
