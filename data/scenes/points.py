"""Points of a PLY file, in ASCII or binary: what nerfstudio puts beside a transforms.json."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ids3d.errors import UserError
from ids3d.reading import plain_file

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST_HEADER = 2**16


def read_ply(path: Path) -> Tensor:
    """The vertices' places (p, 3) float64; those that are not finite are left out. Raises UserError: it is no PLY."""
    try:
        with plain_file(path).open("rb") as file:
            head = file.read(_LONGEST_HEADER)
            end = re.search(rb"\bend_header\r?\n", head)
            if not head.startswith(b"ply") or end is None:
                raise ValueError("it does not begin as a PLY file does")
            order, count, fields = _header(head[: end.start()].decode("ascii"))
            file.seek(end.end())
            if order:
                dtype = np.dtype([(name, order + kind) for name, kind in fields])
                data = file.read(count * dtype.itemsize)
                if len(data) < count * dtype.itemsize:
                    raise ValueError("it is cut short")
                table = np.frombuffer(data, dtype)
                columns = [table[axis].astype(np.float64) for axis in "xyz"]
            else:
                rows = np.loadtxt(file, max_rows=count, ndmin=2) if count else np.empty((0, len(fields)))
                if rows.shape != (count, len(fields)):
                    raise ValueError("it is cut short")
                columns = [rows[:, [name for name, _ in fields].index(axis)] for axis in "xyz"]
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"cannot read the points of {path}: {error}") from error
    points = torch.from_numpy(np.stack(columns, axis=-1))
    return points[points.isfinite().all(dim=-1)]


def _header(text: str) -> tuple[str, int, list[tuple[str, str]]]:
    """The byte order ("": ASCII), the number of vertices, and the name and type of each of their properties."""
    order, count, fields, element = None, None, [], ""
    for line in text.splitlines():
        match line.split():
            case ["format", kind, _]:
                order = "" if kind == "ascii" else _ORDERS.get(kind)
            case ["element", element, number]:
                if count is None and element != "vertex":
                    raise ValueError("its first element is not the vertices")
                count = int(number) if count is None else count
            case ["property", kind, name] if element == "vertex":
                if kind not in _TYPES:
                    raise ValueError(f"a property of type {kind}")
                fields.append((name, _TYPES[kind]))
            case ["property", "list", *_] if element == "vertex":
                raise ValueError("its vertices have lists")
    names = [name for name, _ in fields]
    if order is None or count is None or count < 0 or not {"x", "y", "z"} <= set(names):
        raise ValueError("its header does not say format, vertices, and their x, y and z")
    if len(set(names)) < len(names):
        raise ValueError("its vertices have two properties of one name")
    return order, count, fields
