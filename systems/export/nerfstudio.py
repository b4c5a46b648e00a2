"""A field as a scene in nerfstudio's layout: renders of the captured views with their poses, depths and points.

https://docs.nerf.studio/quickstart/data_conventions.html
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ids3d.cameras import Cameras
from ids3d.config.bounds import SHARE, check_bounds
from ids3d.errors import UserError
from ids3d.images import save_image
from ids3d.progress import track
from ids3d.systems.export.fields import ExportSettings, RunFields, Units
from ids3d.systems.export.points import cloud

DEPTH_UNIT = 1e-3  # nerfstudio's depth_unit_scale_factor
FARTHEST = (2**16 - 1) * DEPTH_UNIT
INTRINSICS = {"fl_x": "fx", "fl_y": "fy", "cx": "cx", "cy": "cy"}


@dataclass(frozen=True)
class Nerfstudio(ExportSettings):
    """transforms.json, images/, depth/ and points.ply. The held-out views are listed as such."""

    units: Units = "scene"  # scene: units and axes of the scene's own; files: those of the capture's files
    size: int | None = None  # longest side of the images, pixels; null: the photographs'
    opacity: float = 0.5  # opacity below which a pixel has no depth (0), and is no point

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, size="[16, 8192]", opacity=SHARE)

    def write(self, fields: RunFields, folder: Path) -> str:
        """Write the files into `folder`. Returns what came out, in one line. Raises UserError: a depth is too large."""
        cameras, names, held_out = self._views(fields)
        for name in ("images", "depth"):
            (folder / name).mkdir()
        length = 1.0 if self.units == "scene" else 1 / fields.scene.to_scene.scale
        frames, shared = [], shared_intrinsics(cameras)
        for i in track(range(len(cameras)), "views"):
            fields.check()
            camera = cameras[i].to(fields.device)
            render = fields.after.render(camera)
            depth = along_axis(camera, render.depth) * (render.opacity >= self.opacity) * length
            image, map_ = f"images/{names[i]}.png", f"depth/{names[i]}.png"
            save_image(folder / image, render.rgb)
            self._save_depth(folder / map_, depth, names[i])
            frame = {
                "file_path": image,
                "depth_file_path": map_,
                **({} if shared else intrinsics(cameras, i)),
            }
            frames.append({**frame, "transform_matrix": self._pose(fields, cameras.c2w[i])})
        points = cloud(fields, fields.after, self.opacity, 512)
        points.save(folder / "points.ply", fields, self.units)
        listed = {
            f"{split}_filenames": [
                f["file_path"] for f, out in zip(frames, held_out, strict=True) if out in kinds
            ]
            for split, kinds in (("train", [False]), ("val", [True]), ("test", [True]))
        }
        transforms = {
            "camera_model": "OPENCV",
            "w": cameras.width,
            "h": cameras.height,
            **(intrinsics(cameras, 0) if shared else {}),
            "ply_file_path": "points.ply",
            **listed,
            "frames": frames,
        }
        (folder / "transforms.json").write_text(json.dumps(transforms, indent=1) + "\n", encoding="utf-8")
        return f"{len(frames)} views of {cameras.width}x{cameras.height} pixels, {len(points.points)} points"

    def _views(self, fields: RunFields) -> tuple[Cameras, list[str], list[bool]]:
        """The cameras of all views, training views first, what their files are called, and which are held out."""
        train, test = fields.scene.train, fields.scene.test
        names = [*train.names, *test.names]
        if len({name.lower() for name in names}) < len(names):
            names = [f"train-{name}" for name in train.names] + [f"test-{name}" for name in test.names]
        parts = (train.cameras, test.cameras)
        values = {
            key: torch.cat([getattr(part, key) for part in parts]) for key in ("c2w", *INTRINSICS.values())
        }
        cameras = Cameras(**values, height=train.cameras.height, width=train.cameras.width)
        if self.size is not None:
            scale = self.size / max(cameras.height, cameras.width)
            cameras = cameras.resized(*(max(1, round(s * scale)) for s in (cameras.height, cameras.width)))
        return cameras, names, [False] * len(train) + [True] * len(test)

    def _pose(self, fields: RunFields, c2w: Tensor) -> list[list[float]]:
        """A pose as a matrix of 4x4 in the export's units."""
        pose, similarity = c2w.double(), fields.scene.to_scene
        turned = pose[:, :3] if self.units == "scene" else similarity.rotation.T @ pose[:, :3]
        centre = fields.in_units(pose[:, 3], self.units)
        return [*torch.cat([turned, centre[:, None]], dim=1).tolist(), [0.0, 0.0, 0.0, 1.0]]

    def _save_depth(self, path: Path, depth: Tensor, name: str) -> None:
        if float(depth.max()) > FARTHEST:
            raise UserError(
                f"view {name} sees something {float(depth.max()):.4g} units away, more than the {FARTHEST} that depth "
                f"maps in thousandths hold: {'use units=scene' if self.units == 'files' else 'lower data.box_size'}"
            )
        thousandths = (depth / DEPTH_UNIT).round().cpu().numpy().astype(np.uint16)
        Image.fromarray(thousandths).save(path)


def along_axis(camera: Cameras, distance: Tensor) -> Tensor:
    """Depth (h, w) along one camera's axis, of distances (h, w) along the rays of its pixels."""
    return distance * (camera.rays().directions[0] @ camera.forward[0])


def intrinsics(cameras: Cameras, i: int) -> dict[str, Any]:
    """What a transforms.json says of a camera's lens."""
    return {key: float(getattr(cameras, name)[i]) for key, name in INTRINSICS.items()}


def shared_intrinsics(cameras: Cameras) -> bool:
    """Whether all views were taken with one lens."""
    return all(bool((getattr(cameras, n) == getattr(cameras, n)[0]).all()) for n in INTRINSICS.values())
