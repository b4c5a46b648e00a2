"""Frames of a `transforms.json`, the layout that NeRF's Blender scenes, instant-ngp and nerfstudio share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ids3d.errors import UserError
from ids3d.reading import is_plain, read_json

LARGEST = 1e30


@dataclass(frozen=True)
class Frame:
    """One view: the path that the file gives its image, its pose, and all else that the file says of it."""

    file_path: str
    c2w: Tensor  # (3, 4) float64, OpenGL axes
    said: Mapping[str, Any]


def read_frames(path: Path) -> tuple[Mapping[str, Any], list[Frame]]:
    """What a file says of all views, and its frames in their order. Raises UserError: it is malformed."""
    content = read_json(path)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list):
        raise UserError(f'{path} has no list "frames": is it a transforms.json?')
    if not frames:
        raise UserError(f"{path} has no frames")
    found = []
    for i, said in enumerate(frames):
        where = f"{path}: frame {i}"
        if not isinstance(said, dict):
            raise UserError(f"{where} is no mapping")
        name = text_of(said, "file_path", where)
        if name is None:
            raise UserError(f"{where} has no file_path")
        found.append(Frame(name, pose_of(said.get("transform_matrix"), f"{where}: transform_matrix"), said))
    return content, found


def pose_of(matrix: Any, where: str) -> Tensor:
    """The upper rows (3, 4) float64 of a matrix of 3 or 4 rows of 4 numbers. Raises UserError: it is none."""
    rows = matrix if isinstance(matrix, list) and len(matrix) in (3, 4) else []
    whole = bool(rows) and all(
        isinstance(row, list) and len(row) == 4 and all(map(_is_number, row)) for row in rows
    )
    if not whole:
        raise UserError(f"{where} is no matrix of 4x4 finite numbers")
    return torch.tensor([[float(x) for x in row] for row in rows[:3]], dtype=torch.float64)


def number_of(said: Mapping[str, Any], key: str, where: str) -> float | None:
    """A number that the file gives, None where it gives none. Raises UserError: it is none, or not finite."""
    value = said.get(key)
    if value is not None and not _is_number(value):
        raise UserError(f"{where}: {key} is no finite number")
    return None if value is None else float(value)


def text_of(said: Mapping[str, Any], key: str, where: str) -> str | None:
    """A text that the file gives, None where it gives none. Raises UserError: it is none."""
    value = said.get(key)
    if value is not None and not (isinstance(value, str) and value.strip() and is_plain(value)):
        raise UserError(f"{where}: {key} is no text")
    return value


def angle_of(said: Mapping[str, Any], key: str, where: str) -> float | None:
    """An angle of view in radians. Raises UserError: it is none."""
    angle = number_of(said, key, where)
    if angle is not None and not 1e-3 < angle < math.pi - 1e-3:
        raise UserError(f"{where}: {key} is no angle of view in radians: {angle:g}")
    return angle


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
