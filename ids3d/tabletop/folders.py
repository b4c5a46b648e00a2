"""Tabletop scenes as folders that other programs read: in the layouts of LLFF, nerfstudio, COLMAP and NeRF's Blender.

All hold a scene before an edit, and beside it the true edited views (`edited/`), masks of what the edit touches
(`masks/`, white where it does), and `captions.json` with the captions before and after; scenes with their room, seen
without distortion, their true depths too (`depth/`, PNGs of 16 bits, in thousandths of a unit along each pixel's ray).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ids3d.cameras import Cameras
from ids3d.errors import UserError
from ids3d.images import to_bytes
from ids3d.lenses import Distortion
from ids3d.progress import track
from ids3d.tabletop.edits import Edit, EditedView, render_edit
from ids3d.tabletop.render import TabletopRender
from ids3d.tabletop.sparse import sparse_model, write_ply, write_text

APPLIED = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]]
"""nerfstudio's `applied_transform`, rows: what is written is x, z, -y of what was."""

DEPTH_UNIT = 1e-3
"""What a depth's number counts, in the scene's units."""


def write_llff(root: Path, edit: Edit, cameras: Cameras, supersampling: int = 3) -> None:
    """Write an edit's scene in LLFF's layout, `poses_bounds.npy` beside `images/`, seen by the given cameras.

    Raises:
        UserError: the folder is not empty.
    """
    bounds = []
    for camera, view in _views(root, edit, cameras, supersampling):
        depth = torch.minimum(axial_depth(camera, view.before), axial_depth(camera, view.after))
        farthest = torch.maximum(axial_depth(camera, view.before), axial_depth(camera, view.after))
        bounds.append([float(depth.min()), float(farthest.max())])
    np.save(root / "poses_bounds.npy", pose_table(cameras, np.array(bounds)))


def write_transforms(
    root: Path, edit: Edit, cameras: Cameras, supersampling: int = 3, distortion: Distortion | None = None
) -> None:
    """Write an edit's scene in nerfstudio's layout: `images/`, `transforms.json`, and points in `sparse_pc.ply`.

    As `ns-process-data` does, everything is turned by an `applied_transform`: y up, from the tabletop's z up.

    Args:
        distortion: of the cameras' lenses; the pictures are rendered through it.

    Raises:
        UserError: the folder is not empty; pixels that the distortion shows nothing.
    """
    renders = [view.before for _, view in _views(root, edit, cameras, supersampling, distortion)]
    model = sparse_model(cameras, renders, distortion)
    applied = torch.tensor(APPLIED, dtype=torch.float64)
    bottom = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    frames: list[dict[str, object]] = []
    for index in range(len(cameras)):
        matrix = torch.cat([applied[:, :3] @ cameras.c2w[index].double(), bottom])
        frames.append({"file_path": f"images/{index:03d}.png", "transform_matrix": matrix.tolist()})
    for i, frame in enumerate(frames):
        for key, value in (
            ("fl_x", cameras.fx),
            ("fl_y", cameras.fy),
            ("cx", cameras.cx),
            ("cy", cameras.cy),
        ):
            frame[key] = float(value[i])
    said = {
        "camera_model": model.camera_model,
        "w": cameras.width,
        "h": cameras.height,
        **({} if distortion is None else dataclasses.asdict(distortion)),  # type: ignore[call-overload]
        "applied_transform": applied.tolist(),
        "ply_file_path": "sparse_pc.ply",
        "frames": frames,
    }
    write_ply(root / "sparse_pc.ply", model.points @ applied[:, :3].T, model.colours)
    _save_json(root / "transforms.json", said)


def write_colmap(
    root: Path, edit: Edit, cameras: Cameras, supersampling: int = 3, distortion: Distortion | None = None
) -> None:
    """Write an edit's scene as COLMAP leaves one: `images/`, and a text model in `sparse/0`; see `write_transforms`."""
    renders = [view.before for _, view in _views(root, edit, cameras, supersampling, distortion)]
    write_text(root / "sparse" / "0", sparse_model(cameras, renders, distortion))


def _views(
    root: Path, edit: Edit, cameras: Cameras, supersampling: int, distortion: Distortion | None = None
) -> Iterator[tuple[Cameras, EditedView]]:
    """Render all views, write them to `images/`, `edited/`, `masks/` and `depth/`, and yield each with its camera."""
    _begin(root, edit)
    for index in track(range(len(cameras)), "rendering views"):
        view = render_edit(edit, cameras[index], supersampling, distortion=distortion)
        name = f"{index:03d}.png"
        _save(root / "images" / name, to_bytes(view.before.rgb))
        _save(root / "edited" / name, to_bytes(view.after.rgb))
        _save(root / "masks" / name, _white(view.mask))
        if distortion is None:
            thousandths = (view.before.depth / DEPTH_UNIT).round().clamp(max=2**16 - 1)
            _save(root / "depth" / name, thousandths.numpy().astype(np.uint16))
        yield cameras[index], view


def pose_table(cameras: Cameras, bounds: np.ndarray) -> np.ndarray:
    """The rows (n, 17) float64 of `poses_bounds.npy`.

    Each is the matrix [down, right, back, centre, (height, width, focal)] row by row, then the nearest and farthest
    depth along the camera's axis, `bounds` (n, 2).
    """
    right, up, back, centre = cameras.c2w.double().unbind(-1)
    size = torch.tensor([cameras.height, cameras.width], dtype=torch.float64).expand(len(cameras), 2)
    lens = torch.cat([size, cameras.fx.double()[:, None]], dim=1)
    matrices = torch.stack([-up, right, back, centre, lens], dim=-1)
    return np.concatenate([matrices.reshape(-1, 15).numpy(), bounds], axis=1)


def axial_depth(camera: Cameras, picture: TabletopRender) -> Tensor:
    """A picture's depth (h, w) along its camera's axis rather than along each ray."""
    return picture.depth * (camera.rays().directions[0] @ camera.forward[0])


def write_blender(
    root: Path,
    edit: Edit,
    splits: Mapping[str, Cameras],
    supersampling: int = 3,
    *,
    room: bool = False,
    depth: bool = False,
) -> None:
    """Write an edit's scene in the layout of NeRF's Blender scenes: RGBA pictures and `transforms_<split>.json`.

    Colours are not multiplied by the opacity (as in any PNG). Edited views are `edited/<split>/r_<i>.png`.

    Args:
        root: the folder, new or empty.
        edit: the scene before and after.
        splits: the cameras of each split ("train", "val", "test").
        supersampling: squared, the rays of a pixel.
        room: keep the floor and walls; otherwise the objects alone, before transparency.
        depth: write `depth/<split>/r_<i>.npy`, (h, w) float32 along unit rays, inf where nothing is met.

    Raises:
        UserError: the folder is not empty; an edit of the floor of a scene without a room.
    """
    if edit.kind == "floor" and not room:
        raise UserError("an edit of the floor shows in scenes with their room only: add --room")
    _begin(root, edit)
    for split, cameras in splits.items():
        frames = []
        for index in track(range(len(cameras)), f"rendering {split} views"):
            view = render_edit(edit, cameras[index], supersampling, room=room)
            _save_blender_view(root, f"{split}/r_{index}", view, depth)
            bottom = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
            matrix = torch.cat([cameras.c2w[index], bottom]).double().tolist()
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": matrix})
        angle = 2 * float(torch.atan(cameras.width / (2 * cameras.fx[0].double())))
        _save_json(root / f"transforms_{split}.json", {"camera_angle_x": angle, "frames": frames})


def _save_blender_view(root: Path, name: str, view: EditedView, depth: bool) -> None:
    _save(root / f"{name}.png", _rgba(view.before))
    _save(root / "edited" / f"{name}.png", _rgba(view.after))
    _save(root / "masks" / f"{name}.png", _white(view.mask))
    if depth:
        path = root / "depth" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, view.before.depth.float().numpy())


def _rgba(picture: TabletopRender) -> np.ndarray:
    opacity = picture.opacity[..., None]
    return to_bytes(torch.cat([picture.rgb / opacity.clamp(min=1e-6), opacity], dim=-1))


def _white(mask: Tensor) -> np.ndarray:
    return mask.to(torch.uint8).numpy() * 255


def _begin(root: Path, edit: Edit) -> None:
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} exists and is not an empty folder: choose another --out, or remove it")
    root.mkdir(parents=True, exist_ok=True)
    _save_json(root / "captions.json", {"source": edit.source, "target": edit.target, "world": "tabletop"})


def _save(path: Path, picture: np.ndarray) -> None:
    """Write uint8 (h, w), (h, w, 3) or (h, w, 4), or uint16 (h, w), as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, optimize=True)


def _save_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
