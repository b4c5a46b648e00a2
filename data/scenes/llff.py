"""Scenes in LLFF layout: `poses_bounds.npy` beside `images/`, `images_4/`, `images_8/` in any combination.

Mildenhall et al. 2019, "Local Light Field Fusion"; the layout of the LLFF and NeRF captures, and what LLFF's
`imgs2poses.py` makes of one's own photographs. Each row of the (n, 17) pose file is a 3x5 matrix, row by row,
whose columns are the camera's down, right and back axes, its centre, and (height, width, focal length) of the
full-size image; then the nearest and the farthest depth of the view, along the camera's axis.

The depths may be missing: from all rows, which are of 15 numbers then, or end with two nan. What the cameras look at
says how far things are, or data.near and data.far do. A row alone without them is a damaged one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ids3d.data.scenes.capture import Capture, build, root_of
from ids3d.data.scenes.image_folders import choose_folder
from ids3d.data.scenes.photographs import find_photographs
from ids3d.data.scenes.poses import check_cameras, check_depths, complain
from ids3d.data.scenes.protocol import SceneConfig
from ids3d.data.scenes.splitting import every_nth
from ids3d.errors import UserError
from ids3d.lenses import Lens
from ids3d.registry import register
from ids3d.scene import Scene

POSES = "poses_bounds.npy"


@register("scene", "llff")
class LLFF:
    """A captured scene in LLFF layout, every `holdout`-th view held out."""

    @dataclass
    class Config(SceneConfig):
        pass

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def load(self) -> Scene:
        """Read the scene from disk, and say in one line what was found.

        Raises:
            UserError: the folder, the pose file, an image, or how they go together.
        """
        root = root_of(self.cfg)
        c2w, lenses, bounds = read_poses(root)
        choice = choose_folder(root, _image_folders(root), lenses[0], self.cfg)
        files = choice.files
        if len({file.stem for file in files}) < len(files):
            raise UserError(
                f"{files[0].parent} has images that differ in nothing but the suffix: keep one of each"
            )
        if len(files) != len(c2w):
            raise UserError(
                f"{files[0].parent} holds {len(files)} images and poses_bounds.npy {len(c2w)} poses: there "
                "must be one pose for each image, in the order of the names"
            )
        capture = Capture(
            root=root,
            source=root / POSES,
            c2w=c2w,
            lenses=lenses,
            choice=choice,
            keys=tuple(file.stem for file in files),
            held_out=every_nth(len(files), self.cfg.holdout),
            bounds=bounds,
        )
        return build(capture, self.cfg)


def read_poses(root: Path) -> tuple[Tensor, tuple[Lens, ...], Tensor | None]:
    """Poses (n, 3, 4) float64, OpenGL axes; lenses of full size; depths (n, 2), None if there are none.

    Raises:
        UserError: the pose file is missing or not what it should be.
    """
    path = root / POSES
    if not path.is_file():
        inside = sorted(p.parent.name for p in root.glob(f"*/{POSES}"))
        hint = f"; did you mean {root / inside[0]}?" if inside else ": is this a scene in LLFF layout?"
        raise UserError(f"there is no {POSES} in {root}{hint}")
    try:
        # Mapped: a header that claims more than the file holds is then found before memory is asked for.
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises whatever a damaged header leads it to
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "fiu":
        raise UserError(f"{path} must hold one array of numbers")
    if table.ndim != 2 or table.shape[1] not in (15, 17):
        raise UserError(
            f"{path} has shape {table.shape}, expected (views, 17): 3x5 pose and two bounds per view"
        )
    rows = torch.from_numpy(table.astype(np.float64))
    matrices, bounds = rows[:, :15].reshape(-1, 3, 5), rows[:, 15:]
    down, right, back, centres, sizes = matrices.unbind(dim=-1)
    c2w = torch.stack([right, -down, back, centres], dim=-1)
    lenses = tuple(Lens(w, h, f, f, w / 2, h / 2) for h, w, f in sizes.tolist())
    check_cameras(path, c2w, lenses, "down, right, back")
    if bool(bounds.isnan().all()):  # also where there are none
        return c2w, lenses, None
    complain(path, ~bounds.isfinite().all(dim=-1), "has a number that is not finite")
    check_depths(path, c2w, bounds)
    return c2w, lenses, bounds


def _image_folders(root: Path) -> dict[str, list[Path]]:
    """The images of `images/` and each `images_<factor>/` that has any. Raises UserError where none has."""
    names = [p.name for p in root.iterdir() if p.is_dir() and re.fullmatch(r"images(_\d+)?", p.name)]
    folders = {name: find_photographs(root / name) for name in sorted(names)}
    folders = {name: files for name, files in folders.items() if files}
    if not folders:
        raise UserError(f"no JPEG or PNG images in {root}/images, images_4, images_8 or the like")
    return folders
