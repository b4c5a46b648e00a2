"""Scenes in LLFF layout: `poses_bounds.npy` beside `images/`, `images_4/`, `images_8/` in any combination.

Mildenhall et al. 2019, "Local Light Field Fusion"; the layout of the LLFF and NeRF captures, and what LLFF's
`imgs2poses.py` makes of one's own photographs. Each row of the (n, 17) pose file is a 3x5 matrix, row by row,
whose columns are the camera's down, right and back axes, its centre, and (height, width, focal length) of the
full-size image; then the nearest and the farthest depth of the view, along the camera's axis.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ids3d
from ids3d.cameras import Cameras, Views
from ids3d.config.bounds import check_bounds
from ids3d.data.scenes.framing import Poses, SpaceChoice, frame
from ids3d.data.scenes.photographs import Photograph, find_photographs, inspect, read_masks, read_photographs
from ids3d.errors import UserError
from ids3d.memory import lack_of_memory
from ids3d.reading import given_path, is_plain, read_json
from ids3d.registry import register
from ids3d.scene import FreeSpace, Scene, SceneBounds, Truth
from ids3d.tasks import LONGEST_NAME

log = logging.getLogger(__name__)

BLACK = (0.0, 0.0, 0.0)
SAMPLE = Path(ids3d.__file__).parent / "scenes" / "tabletop_llff"


@register("scene", "llff")
class LLFF:
    """A captured scene in LLFF layout, every `holdout`-th view held out.

    Beside the images may lie `captions.json` ({"source": ..., "target": ...}), and for made scenes `edited/`
    and `masks/`: for each held-out view a PNG of its name with the true edit, and with what the edit touches.
    """

    @dataclass
    class Config:
        root: str = ""  # the scene's folder; empty = the sample scene that comes with ids3d
        max_size: int = 512  # longest side of the images, pixels; smaller ones stay as they are
        downsample: float | None = None  # instead of max_size: full size over this (LLFF's factor: 4 or 8)
        holdout: int = 8  # views 0, holdout, 2 holdout, ... are held out (Mildenhall et al. 2019: 8)
        recentre: bool = True  # y up, the average camera (views from all around: the object) at the origin
        box_size: float = 2.0  # longest side of the scene's box, scene units; 0 = the pose file's units
        space: SpaceChoice = (
            "box"  # what the field is laid out in; ndc is for views that all look the same way
        )
        near_margin: float = 0.9  # on the nearest depths, which are of sparse points (NeRF: 0.9)
        far_margin: float = 1.05  # on the farthest depths
        # rgb behind the box and behind transparency. null: black; but not known, and left to the renderer to learn,
        # where opaque images from all around, or of all around, show a room that the box does not hold.
        background: tuple[float, float, float] | None = None

        def __post_init__(self) -> None:
            check_bounds(
                self,
                max_size="[1, 16384]",
                downsample="[1, 1000]",
                holdout="[2, 1e6]",  # less would leave no view to train on
                near_margin="(0, 1]",
                far_margin="[1, 1000]",
                box_size="[0, 1000]",
                background="[0, 1]",
            )
            if 0 < self.box_size < 1e-3:
                raise ValueError(f"box_size={self.box_size}: expected 0, or 0.001 or more")

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.root = given_path(cfg.root, "data.root") if cfg.root else SAMPLE

    def load(self) -> Scene:
        """Read the scene from disk, and say in one line what was found.

        Raises:
            UserError: the folder, the pose file, an image, or how they go together.
        """
        cfg = self.cfg
        poses, sizes = read_poses(self.root, cfg.near_margin, cfg.far_margin)
        photographs, (width, height), found = self._choose_photographs(sizes)
        framing = frame(poses, cfg.recentre, cfg.box_size, cfg.space)
        full_height, full_width, focal = sizes.float().unbind(-1)
        half = torch.ones(len(focal))
        cameras = Cameras(
            c2w=framing.place(poses.c2w),
            fx=focal * width / full_width,
            fy=focal * height / full_height,
            cx=half * (width / 2),
            cy=half * (height / 2),
            height=height,
            width=width,
        )
        fault = lack_of_memory(12 * len(photographs) * height * width)
        if fault:
            raise UserError(
                f"{self.root}: {len(photographs)} images of {width}x{height} {fault}: lower data.max_size"
            )
        if not bool((framing.aabb[:3] < framing.aabb[3:]).all()):
            raise UserError(f"{self.root} is too far from the origin of its files: use data.recentre=true")
        images = read_photographs(photographs, height, width, cfg.background or BLACK)
        room = framing.layout != "forward-facing" and not any(p.transparent for p in photographs)
        views = Views(images, cameras, tuple(p.path.stem for p in photographs))
        held_out = torch.arange(len(views)) % cfg.holdout == 0
        train, test = views[~held_out], views[held_out]
        bounds = SceneBounds(
            aabb=framing.aabb,
            near=framing.near,
            far=framing.far,
            background=cfg.background or (None if room else BLACK),
            core=framing.core,
            space=framing.space,
            free_space=FreeSpace(train.cameras, framing.nearest[~held_out]),
        )
        scene = Scene(
            train=train,
            test=test,
            bounds=bounds,
            layout=framing.layout,
            to_scene=framing.to_scene,
            truth=read_truth(self.root, test),
            captions=read_captions(self.root),
            name=self.root.resolve().name,
        )
        log.info("%s: %s; %s", self.root, found, scene.describe())
        return scene

    def _choose_photographs(self, sizes: Tensor) -> tuple[list[Photograph], tuple[int, int], str]:
        """The images to read, the size (width, height) to bring them to, and a word on the choice.

        The folder is the one with the smallest images that are large enough, so that little is decoded and
        reduced; images are never enlarged.
        """
        cfg = self.cfg
        full_height, full_width, _ = sizes[0].tolist()
        folders = _image_folders(self.root)
        first = {name: inspect(files[0], full_width, full_height) for name, files in folders.items()}
        longest = {name: max(p.width, p.height) for name, p in first.items()}
        by_size = sorted(folders, key=lambda name: longest[name])
        if cfg.downsample is None:
            wanted = cfg.max_size
            large_enough = [name for name in by_size if longest[name] >= 0.9 * wanted] or by_size[-1:]
        else:
            wanted = round(max(full_height, full_width) / cfg.downsample)
            large_enough = [name for name in by_size if longest[name] >= wanted - 1]
        shown = ", ".join(f"{name}/ {first[name].width}x{first[name].height}" for name in by_size)
        if not large_enough:
            raise UserError(
                f"{self.root}: downsample={cfg.downsample:g} asks for {wanted} pixels, there is only {shown}, and "
                "images are not enlarged; use "
                f"downsample={max(full_height, full_width) / longest[by_size[-1]]:.4g}"
            )
        name = large_enough[0]
        files = folders[name]
        if len({file.stem for file in files}) < len(files):
            raise UserError(
                f"{self.root / name} has images that differ in nothing but the suffix: keep one of each"
            )
        unnamable = [f for f in files if not f.stem.isprintable() or len(f.stem.encode()) > LONGEST_NAME]
        if unnamable:
            raise UserError(
                f"{unnamable[0]}: nothing can be called so that is made of this view: rename the image"
            )
        if len(files) != len(sizes):
            raise UserError(
                f"{self.root / name} holds {len(files)} images and poses_bounds.npy {len(sizes)} poses: there "
                "must be one pose for each image, in the order of the names"
            )
        photographs = [inspect(path, w, h) for path, (h, w, _) in zip(files, sizes.tolist(), strict=True)]
        for p in photographs:
            if (p.width, p.height) != (photographs[0].width, photographs[0].height):
                raise UserError(
                    f"images of differing sizes in {self.root / name}: {photographs[0].path.name} has "
                    f"{photographs[0].width}x{photographs[0].height} pixels and {p.path.name} "
                    f"{p.width}x{p.height}; all views of a scene must have one size"
                )
        reduction = max(1.0, longest[name] / wanted) if longest[name] > wanted + 1 else 1.0
        size = round(photographs[0].width / reduction), round(photographs[0].height / reduction)
        used = f"reduced to {size[0]}x{size[1]}" if reduction > 1 else "as they are"
        return photographs, size, f"found {shown}, using {name}/ {used}"


def read_poses(root: Path, near_margin: float, far_margin: float) -> tuple[Poses, Tensor]:
    """Poses (OpenGL axes, bounds widened) and full-size (height, width, focal length): (n, 3) float64.

    Raises:
        UserError: the folder or the pose file is missing or not what it should be.
    """
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}")
    path = root / "poses_bounds.npy"
    if not path.is_file():
        inside = sorted(p.parent.name for p in root.glob("*/poses_bounds.npy"))
        hint = f"; did you mean {root / inside[0]}?" if inside else ": is this a scene in LLFF layout?"
        raise UserError(f"there is no poses_bounds.npy in {root}{hint}")
    try:
        # Mapped: a header that claims more than the file holds is then found before memory is asked for.
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises whatever a damaged header leads it to
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "fiu":
        raise UserError(f"{path} must hold one array of numbers")
    if table.ndim != 2 or table.shape[1] != 17:
        raise UserError(
            f"{path} has shape {table.shape}, expected (views, 17): 3x5 pose and two bounds per view"
        )
    if len(table) < 2:
        raise UserError(
            f"{path} holds {len(table)} views: at least 2 are needed, to train on and to hold out"
        )
    rows = torch.from_numpy(table.astype(np.float64))
    _complain(path, ~rows.isfinite().all(dim=-1), "has a number that is not finite")
    matrices, bounds = rows[:, :15].reshape(-1, 3, 5), rows[:, 15:]
    down, right, back, centres, sizes = matrices.unbind(dim=-1)
    c2w = torch.stack([right, -down, back, centres], dim=-1)
    _complain(path, (sizes <= 0).any(dim=-1), "has a height, width or focal length that is not positive")
    _complain(
        path, (bounds[:, 0] <= 0) | (bounds[:, 1] <= bounds[:, 0]), "has bounds that are not 0 < near < far"
    )
    turned = c2w[:, :, :3].mT @ c2w[:, :, :3] - torch.eye(3, dtype=torch.float64)
    bad = (turned.abs().amax(dim=(-2, -1)) > 1e-3) | (torch.linalg.det(c2w[:, :, :3]) < 0)
    _complain(path, bad, "has axes that are no rotation (columns: down, right, back)")
    tangents = torch.stack([sizes[:, 1], sizes[:, 0]], dim=-1) / (2 * sizes[:, 2:])
    extreme = (tangents < 1e-3).any(dim=-1) | (tangents > 1e3).any(dim=-1)
    _complain(
        path, extreme, "has a focal length that gives an angle of view below 0.1 or above 179.9 degrees"
    )
    _complain(path, bounds[:, 1] > 1e9 * bounds[:, 0], "has a far bound more than 1e9 times its near one")
    far = bounds[:, 1].max()
    _complain(path, (bounds[:, 0] < 1e-9) | (bounds[:, 1] > 1e9), "has bounds below 1e-9 or above 1e9")
    distance = (centres - centres.median(dim=0).values).norm(dim=-1)
    _complain(path, distance > 1e5 * far, "stands farther from the others than any of them sees")
    _complain(
        path, centres.norm(dim=-1) > 1e9 * far, "stands too far from the origin for its coordinates' digits"
    )
    margins = torch.tensor([near_margin, far_margin], dtype=torch.float64)
    return Poses(c2w, tangents, bounds * margins), sizes


def read_captions(root: Path) -> tuple[str, str] | None:
    """(source, target) of `captions.json`, or None where there is none. Raises UserError if it is malformed."""
    path = root / "captions.json"
    if not path.exists():
        return None
    captions = read_json(path)
    source, target = (
        captions.get(key) if isinstance(captions, dict) else None for key in ("source", "target")
    )
    if not all(isinstance(text, str) and text.strip() and is_plain(text) for text in (source, target)):
        raise UserError(f'{path} must read {{"source": "...", "target": "..."}}, with a text for each')
    return str(source), str(target)


def read_truth(root: Path, test: Views) -> Truth | None:
    """The true edit of the held-out views from `edited/` and `masks/`, or None where the folder has neither.

    Raises:
        UserError: one is there without the other, a view's image is missing, or it does not fit the view.
    """
    folders = {name: root / name for name in ("edited", "masks")}
    if not any(folder.is_dir() for folder in folders.values()):
        return None
    height, width = test.cameras.height, test.cameras.width
    paths: dict[str, list[Path]] = {}
    for name, folder in folders.items():
        paths[name] = [folder / f"{view}.png" for view in test.names]
        missing = [path for path in paths[name] if not path.is_file()]
        if missing:
            raise UserError(
                f"there is no {missing[0]}: each held-out view needs one in edited/ and one in masks/"
            )
        for photograph in (inspect(path, width, height) for path in paths[name]):
            if (photograph.width, photograph.height) < (width, height):
                raise UserError(f"{photograph.path} is smaller than its view ({width}x{height})")
    edited = [Photograph(path, width, height) for path in paths["edited"]]
    images = read_photographs(edited, height, width, BLACK)
    return Truth(images, read_masks(paths["masks"], height, width))


def _image_folders(root: Path) -> dict[str, list[Path]]:
    """The images of `images/` and each `images_<factor>/` that has any. Raises UserError where none has."""
    names = [p.name for p in root.iterdir() if p.is_dir() and re.fullmatch(r"images(_\d+)?", p.name)]
    folders = {name: find_photographs(root / name) for name in sorted(names)}
    folders = {name: files for name, files in folders.items() if files}
    if not folders:
        raise UserError(f"no JPEG or PNG images in {root}/images, images_4, images_8 or the like")
    return folders


def _complain(path: Path, bad: Tensor, what: str) -> None:
    """Raise UserError for the first view that is bad: (n,) bool."""
    if bool(bad.any()):
        raise UserError(f"{path}: view {int(bad.int().argmax())} {what}")
