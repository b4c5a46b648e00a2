"""Scenes in nerfstudio's and instant-ngp's layout: one `transforms.json` beside folders of images.

For all frames, or in each of them: `fl_x`, `fl_y`, `cx`, `cy`, `w`, `h` in pixels, or `camera_angle_x` in radians;
`camera_model` (a perspective one, or OPENCV_FISHEYE; instant-ngp: `is_fisheye`) and its coefficients `k1` ... `p2`.
Frames have `file_path`, `transform_matrix` (camera to world, OpenGL axes) and perhaps `mask_path` (black: does not
count). `applied_transform` is what the poses have been turned by, which is undone; `ply_file_path` names points, from
which the depths are; `train_filenames` and `test_filenames` (or `val_filenames`) say which views are held out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ids3d.data.scenes.capture import Capture, build, root_of
from ids3d.data.scenes.depths import depths_of_points
from ids3d.data.scenes.frames import Frame, angle_of, number_of, pose_of, read_frames, text_of
from ids3d.data.scenes.image_folders import choose_folder, inside, named_images
from ids3d.data.scenes.photographs import stored_size
from ids3d.data.scenes.points import read_ply
from ids3d.data.scenes.poses import check_cameras
from ids3d.data.scenes.protocol import SceneConfig
from ids3d.data.scenes.splitting import every_nth
from ids3d.errors import UserError, nearest
from ids3d.lenses import Distortion, Fisheye, Lens, RadialTangential
from ids3d.registry import register
from ids3d.scene import Scene

FILE = "transforms.json"
PERSPECTIVE = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
FISHEYE = "OPENCV_FISHEYE"


@register("scene", "transforms")
class Transforms:
    """A scene with a `transforms.json`; the views that it names are held out, or else every `holdout`-th by name."""

    @dataclass
    class Config(SceneConfig):
        pass

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def load(self) -> Scene:
        """Read the scene from disk, and say in one line what was found.

        Raises:
            UserError: the folder, the transforms file, an image, or how they go together.
        """
        cfg, root = self.cfg, root_of(self.cfg)
        path = root / FILE
        if not path.is_file():
            raise UserError(f"there is no {FILE} in {root}: is this a scene of nerfstudio or instant-ngp?")
        said, frames = read_frames(path)
        frames, held_out = _splits(said, sorted(frames, key=lambda frame: frame.file_path), path, cfg.holdout)
        names = [frame.file_path for frame in frames]
        folders = named_images(root, names, path)
        size = stored_size(next(iter(folders.values()))[0])
        lenses = tuple(_lens({**said, **frame.said}, size, str(path)) for frame in frames)
        applied = _applied(said, path)
        c2w = _undo(applied, torch.stack([frame.c2w for frame in frames]))
        check_cameras(path, c2w, lenses, "right, up, back, centre")
        masks = [text_of(frame.said, "mask_path", str(path)) for frame in frames]
        capture = Capture(
            root=root,
            source=path,
            c2w=c2w,
            lenses=lenses,
            choice=choose_folder(root, folders, lenses[0], cfg),
            keys=_keys(names),
            held_out=held_out,
            bounds=_depths(said, root, path, applied, c2w, lenses),
            masks=tuple(None if name is None else _mask(root, name, path) for name in masks),
        )
        return build(capture, cfg)


def _splits(
    said: Mapping[str, Any], frames: list[Frame], path: Path, holdout: int
) -> tuple[list[Frame], Tensor]:
    """The frames that are used, and (n,) bool which of them are held out."""
    lists = {key: said.get(f"{key}_filenames") for key in ("train", "test", "val")}
    for key, names in lists.items():
        if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise UserError(f"{path}: {key}_filenames is no list of file paths")
    known = {_plain(frame.file_path) for frame in frames}
    chosen = {key: {_plain(name) for name in names} for key, names in lists.items() if names}
    for key, names in chosen.items():
        if names - known:
            raise UserError(
                f"{path}: {key}_filenames has {sorted(names - known)[0]}, which no frame is called"
            )
    test = chosen.get("test", chosen.get("val"))
    if test is None:
        used = [f for f in frames if _plain(f.file_path) in chosen.get("train", known)]
        return used, every_nth(len(used), holdout)
    train = chosen.get("train", known) - test
    used = [f for f in frames if _plain(f.file_path) in train | test]
    return used, torch.tensor([_plain(f.file_path) in test for f in used], dtype=torch.bool)


def _plain(name: str) -> str:
    return Path(name).as_posix()


def _lens(said: Mapping[str, Any], stored: tuple[int, int], where: str) -> Lens:
    """The lens that a file describes; the size of a stored image counts where it says none."""
    width, height = number_of(said, "w", where) or stored[0], number_of(said, "h", where) or stored[1]
    fx, fy = number_of(said, "fl_x", where), number_of(said, "fl_y", where)
    if fx is None and (angle := angle_of(said, "camera_angle_x", where)) is not None:
        fx = 0.5 * width / math.tan(0.5 * angle)
    if fy is None and (angle := angle_of(said, "camera_angle_y", where)) is not None:
        fy = 0.5 * height / math.tan(0.5 * angle)
    fx, fy = fx if fx is not None else fy, fy if fy is not None else fx
    if fx is None or fy is None:
        raise UserError(f"{where} has neither fl_x nor camera_angle_x: the focal length is not known")
    cx, cy = number_of(said, "cx", where), number_of(said, "cy", where)
    cx, cy = width / 2 if cx is None else cx, height / 2 if cy is None else cy
    return Lens(width, height, fx, fy, cx, cy, _distortion(said, where))


def _distortion(said: Mapping[str, Any], where: str) -> Distortion | None:
    model = text_of(said, "camera_model", where)
    if model is None:
        model = FISHEYE if said.get("is_fisheye") is True else "OPENCV"
    given = {key: number_of(said, key, where) or 0.0 for key in ("k1", "k2", "k3", "k4", "p1", "p2")}
    if model == FISHEYE:
        return Fisheye(given["k1"], given["k2"], given["k3"], given["k4"])
    if model not in PERSPECTIVE:
        known = (*PERSPECTIVE, FISHEYE)
        hint = nearest(model, known)
        raise UserError(
            f"{where}: camera_model {model[:100]}: {hint or 'not supported'} (known: {', '.join(known)})"
        )
    if given["k4"]:
        raise UserError(f"{where}: k4 means something for camera_model {FISHEYE} alone, not for {model}")
    lens = RadialTangential(given["k1"], given["k2"], given["p1"], given["p2"], given["k3"])
    return None if lens == RadialTangential() else lens


def _applied(said: Mapping[str, Any], path: Path) -> Tensor:
    """`applied_transform` (3, 4) float64; the identity where there is none. Raises UserError: it turns nothing."""
    matrix = said.get("applied_transform")
    if matrix is None:
        return torch.eye(3, 4, dtype=torch.float64)
    applied = pose_of(matrix, f"{path}: applied_transform")
    turn = applied[:, :3]
    off = (turn @ turn.T - torch.eye(3, dtype=torch.float64)).abs().max()
    if not float(off) <= 1e-3 or not float(torch.linalg.det(turn)) > 0:
        raise UserError(f"{path}: applied_transform is no rotation and shift")
    return applied


def _undo(applied: Tensor, c2w: Tensor) -> Tensor:
    """Poses (n, 3, 4) before they were turned and shifted."""
    turned = applied[:, :3].T @ c2w
    return torch.cat([turned[:, :, :3], turned[:, :, 3:] - applied[:, :3].T @ applied[:, 3:]], dim=-1)


def _depths(
    said: Mapping[str, Any], root: Path, path: Path, applied: Tensor, c2w: Tensor, lenses: Sequence[Lens]
) -> Tensor | None:
    """Depths (n, 2) by the points that the file names; None where it names none."""
    name = text_of(said, "ply_file_path", str(path))
    if name is None:
        return None
    points = (read_ply(root / inside(root, name, path)) - applied[:, 3]) @ applied[:, :3]
    return depths_of_points(points, c2w, lenses)


def _mask(root: Path, name: str, path: Path) -> Path:
    mask = root / inside(root, name, path)
    if not mask.is_file():
        raise UserError(f"there is no mask {mask}, which {path} names")
    return mask


def _keys(names: Sequence[str]) -> tuple[str, ...]:
    """Paths without suffix, and without the folder where all are in one."""
    paths = [Path(_plain(name)) for name in names]
    tops = {path.parts[0] for path in paths if len(path.parts) > 1}
    within = len(tops) == 1 and all(len(path.parts) > 1 for path in paths)
    rests = [path.relative_to(path.parts[0]) if within else path for path in paths]
    return tuple(rest.with_suffix("").as_posix() for rest in rests)
