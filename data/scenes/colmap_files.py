"""Whether the files of a binary COLMAP model are as long as they say: pycolmap reads on, and on, where they are not.

The layout is that of COLMAP's `src/colmap/scene/reconstruction_io_binary.cc`: little-endian, without padding.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from ids3d.errors import UserError
from ids3d.reading import plain_file

FILES = ("cameras", "images", "points3D")

_IMAGE = 4 + 7 * 8 + 4  # id, rotation and shift, camera's id; then the name, a count, and observations
_OBSERVATION = 2 * 8 + 8
_POINT = 8 + 3 * 8 + 3 + 8  # id, place, colour, error; then a count, and elements of the track
_ELEMENT = 4 + 4


def check_binary(folder: Path) -> None:
    """Raise UserError for a model whose images or points end before or after what they say they hold."""
    for name in ("images.bin", "points3D.bin"):
        path = folder / name
        try:
            with (
                plain_file(path).open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                end = _end_of_images(data) if name == "images.bin" else _end_of_points(data)
                if end != len(data):
                    raise ValueError(f"{len(data)} bytes, and what it says it holds takes {end}")
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: it is cut short or damaged ({error})") from error


def _end_of_images(data: mmap.mmap) -> int:
    at = 8
    for _ in range(_count(data, 0)):
        end = data.find(b"\0", at + _IMAGE) if at + _IMAGE < len(data) else -1
        if end < 0:
            raise ValueError("a name does not end")
        at = end + 1
        at += 8 + _OBSERVATION * _count(data, at)
    return at


def _end_of_points(data: mmap.mmap) -> int:
    at = 8
    for _ in range(_count(data, 0)):
        at += _POINT
        at += 8 + _ELEMENT * _count(data, at)
    return at


def _count(data: mmap.mmap, at: int) -> int:
    """A count at a place. Raises ValueError: the place is beyond the file's end."""
    if at + 8 > len(data):
        raise ValueError(f"{len(data)} bytes, and what it says it holds takes {at + 8} or more")
    return int(struct.unpack_from("<Q", data, at)[0])
