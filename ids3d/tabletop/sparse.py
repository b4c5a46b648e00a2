"""What structure from motion would find of a tabletop scene: points on its surfaces, and which views saw them where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from ids3d.cameras import Cameras
from ids3d.lenses import Distortion, Fisheye, Lens, RadialTangential
from ids3d.tabletop.render import TabletopRender, rays_of

GRID = 12  # points a view finds, along each side
OPENCV = {"k1", "k2", "p1", "p2"}


@dataclass(frozen=True)
class SparseModel:
    """Cameras and points, as COLMAP has them.

    Attributes:
        cameras: n, without their distortion.
        lenses: of the n cameras.
        points: (p, 3) float64.
        colours: (p, 3) uint8.
        seen: of each view, (indices of its points, (k,), and their pixels, (k, 2) float64).
    """

    cameras: Cameras
    lenses: tuple[Lens, ...]
    points: Tensor
    colours: Tensor
    seen: list[tuple[Tensor, Tensor]]

    @property
    def camera_model(self) -> str:
        """COLMAP's name for what the lenses are."""
        distortion = self.lenses[0].distortion
        if distortion is None:
            return "PINHOLE"
        if isinstance(distortion, Fisheye):
            return "OPENCV_FISHEYE"
        return "FULL_OPENCV" if {k for k, v in vars(distortion).items() if v} - OPENCV else "OPENCV"


def sparse_model(
    cameras: Cameras, renders: Sequence[TabletopRender], distortion: Distortion | None
) -> SparseModel:
    """Points where the rays of a grid of each view's pixels end, and the views that nothing hides them from."""
    lenses = tuple(
        Lens(cameras.width, cameras.height, fx, fy, cx, cy, distortion)
        for fx, fy, cx, cy in torch.stack([cameras.fx, cameras.fy, cameras.cx, cameras.cy], dim=-1)
        .double()
        .tolist()
    )
    rows, cols = (((torch.arange(GRID) + 0.5) / GRID * n).long() for n in (cameras.height, cameras.width))
    points, colours = [], []
    for i, picture in enumerate(renders):
        o, d = rays_of(cameras[i], distortion)
        chosen = (rows[:, None] * cameras.width + cols).flatten()
        depth = picture.depth.double().flatten()[chosen]
        met = depth.isfinite()
        points.append((o + depth * d[:, chosen]).T[met])
        colours.append((picture.rgb.reshape(-1, 3)[chosen] * 255).round().to(torch.uint8)[met])
    found = torch.cat(points)
    seen = [
        _seen(found, cameras.c2w[i].double(), lens, renders[i].depth.double())
        for i, lens in enumerate(lenses)
    ]
    return SparseModel(cameras, lenses, found, torch.cat(colours), seen)


def _seen(points: Tensor, c2w: Tensor, lens: Lens, depth: Tensor) -> tuple[Tensor, Tensor]:
    """The points that a view shows, and where."""
    local = (points - c2w[:, 3]) @ c2w[:, :3]
    ahead = -local[:, 2] > 1e-6
    plane = torch.stack([local[:, 0], -local[:, 1]], dim=-1) / (-local[:, 2:]).clamp(min=1e-6)
    pixels = lens.pixels(plane)
    size = pixels.new_tensor([lens.width, lens.height])
    inside = ahead & (pixels >= 0).all(dim=-1) & (pixels < size).all(dim=-1)
    cols, rows = torch.where(inside[:, None], pixels, 0.0).long().unbind(-1)
    distance = local.norm(dim=-1)
    shown = inside & ((distance - depth[rows, cols]).abs() < 0.02 * distance)
    return shown.nonzero()[:, 0], pixels[shown]


def write_text(folder: Path, model: SparseModel) -> None:
    """Write cameras.txt, images.txt and points3D.txt, views as 000.png, 001.png, ..."""
    folder.mkdir(parents=True)
    n = len(model.cameras)
    cameras = [
        " ".join([str(i + 1), model.camera_model, str(lens.width), str(lens.height), *_parameters(lens)])
        for i, lens in enumerate(model.lenses)
    ]
    flip = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)  # from OpenGL's axes to OpenCV's
    images, tracks = [], [[] for _ in model.points]  # type: list[str], list[list[str]]
    for i in range(n):
        c2w = model.cameras.c2w[i].double()
        turn = (c2w[:, :3] * flip).T
        x, y, z, w = Rotation.from_matrix(turn.numpy()).as_quat().tolist()
        pose = [w, x, y, z, *(-turn @ c2w[:, 3]).tolist()]
        images.append(" ".join([str(i + 1), *map(repr, pose), str(i + 1), f"{i:03d}.png"]))
        indices, pixels = model.seen[i]
        observed = zip(indices.tolist(), pixels.tolist(), strict=True)
        words = []
        for place, (index, (column, row)) in enumerate(observed):
            words.append(f"{column!r} {row!r} {index + 1}")
            tracks[index].append(f"{i + 1} {place}")
        images.append(" ".join(words))
    points = [
        " ".join([str(i + 1), *map(repr, place), *map(str, colour), "0.1", *track])
        for i, (place, colour, track) in enumerate(
            zip(model.points.tolist(), model.colours.tolist(), tracks, strict=True)
        )
    ]
    for name, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _parameters(lens: Lens) -> list[str]:
    """Focal lengths, principal point and distortion, in COLMAP's order."""
    values = [lens.fx, lens.fy, lens.cx, lens.cy]
    match lens.distortion:
        case RadialTangential(k1, k2, p1, p2, k3, k4, k5, k6):
            values += [k1, k2, p1, p2, *([k3, k4, k5, k6] if any((k3, k4, k5, k6)) else [])]
        case Fisheye(k1, k2, k3, k4):
            values += [k1, k2, k3, k4]
    return [repr(float(value)) for value in values]


def write_ply(path: Path, points: Tensor, colours: Tensor) -> None:
    """Write points (p, 3) and colours (p, 3) uint8 as an ASCII PLY file."""
    properties = [f"float {axis}" for axis in "xyz"] + [f"uchar {name}" for name in ("red", "green", "blue")]
    head = [
        "ply",
        "format ascii 1.0",
        f"element vertex {len(points)}",
        *(f"property {p}" for p in properties),
    ]
    rows = [
        " ".join([*map(repr, place), *map(str, colour)])
        for place, colour in zip(points.tolist(), colours.tolist(), strict=True)
    ]
    path.write_text("\n".join([*head, "end_header", *rows]) + "\n", encoding="ascii")
