"""Writes small scenes with a transforms.json, number by number, and COLMAP models as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from ids3d.cameras import Cameras
from tests.data.scenes.llff_folder import arc_cameras

SIZE = (60, 80)  # height, width of the images and of the lens


def cameras(n: int = 10, spread: float = 30.0) -> Cameras:
    return arc_cameras(n, spread).resized(*SIZE)


def frame(c2w: torch.Tensor, name: str, **more: Any) -> dict[str, Any]:
    return {"file_path": name, "transform_matrix": [*c2w.double().tolist(), [0.0, 0.0, 0.0, 1.0]], **more}


def write_images(folder: Path, n: int, size: tuple[int, int] = SIZE, suffix: str = ".png") -> None:
    """Image i has grey value 10 i."""
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", size[::-1], (10 * i,) * 3).save(folder / f"view_{i:03d}{suffix}")


def write_transforms(root: Path, known: Cameras, suffix: str = ".png", **said: Any) -> dict[str, Any]:
    """images/ and transforms.json; `said` is laid over what the file says of all frames, which is returned."""
    write_images(root / "images", len(known))
    content = {
        "w": known.width,
        "h": known.height,
        "fl_x": float(known.fx[0]),
        "fl_y": float(known.fy[0]),
        "frames": [frame(c2w, f"images/view_{i:03d}{suffix}") for i, c2w in enumerate(known.c2w)],
    }
    save(root, content | said)
    return content | said


def save(root: Path, content: object, name: str = "transforms.json") -> None:
    (root / name).write_text(json.dumps(content))


def write_blender(root: Path, known: Cameras, splits: dict[str, list[int]], mode: str = "RGBA") -> None:
    """transforms_<split>.json with the given cameras; images are opaque in a square in the middle alone."""
    for split, chosen in splits.items():
        (root / split).mkdir(parents=True)
        frames = []
        for i in chosen:
            image = Image.new("RGBA", (known.width, known.height), (0, 0, 0, 0))
            image.paste((200, 10 * i, 0, 255), (20, 10, 40, 30))
            image.convert(mode).save(root / split / f"r_{i}.png")
            frames.append(frame(known.c2w[i], f"./{split}/r_{i}"))
        angle = 2 * float(torch.atan(known.width / (2 * known.fx[0].double())))
        save(root, {"camera_angle_x": angle, "frames": frames}, f"transforms_{split}.json")


def write_colmap(root: Path, known: Cameras, model: str = "PINHOLE", parameters: str = "") -> Path:
    """images/ and sparse/0 as text; each view sees 20 points from 2.0 to 3.9 ahead of it, along its axis."""
    write_images(root / "images", len(known))
    folder = root / "sparse" / "0"
    folder.mkdir(parents=True)
    focal = f"{float(known.fx[0])} {float(known.fy[0])} {known.width / 2} {known.height / 2}"
    (folder / "cameras.txt").write_text(f"1 {model} {known.width} {known.height} {parameters or focal}\n")
    images, points = [], []
    for i, c2w in enumerate(known.c2w.double()):
        turn = (c2w[:, :3] * torch.tensor([1.0, -1, -1])).T
        x, y, z, w = Rotation.from_matrix(turn.numpy()).as_quat()
        shift = " ".join(map(str, (-turn @ c2w[:, 3]).tolist()))
        images.append(f"{i + 1} {w} {x} {y} {z} {shift} 1 view_{i:03d}.png")
        images.append(" ".join(f"40 30 {20 * i + k + 1}" for k in range(20)))
        for k in range(20):
            place = (c2w[:, 3] - (2 + 0.1 * k) * c2w[:, 2]).tolist()
            points.append(f"{20 * i + k + 1} {place[0]} {place[1]} {place[2]} 9 9 9 0.5 {i + 1} {k}")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    (folder / "points3D.txt").write_text("\n".join(points) + "\n")
    return folder
