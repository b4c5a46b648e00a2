"""PLY files, in ASCII and binary, with other properties and elements; depths by points."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from ids3d.data.scenes.depths import depths_of_points, focus_depths
from ids3d.data.scenes.points import read_ply
from ids3d.errors import UserError
from ids3d.lenses import Lens

POINTS = [(1.0, 2.0, 3.0), (-4.5, 0.25, 1e3), (float("nan"), 0.0, 0.0)]
HEAD = """ply
format {} 1.0
comment made by hand
element vertex 3
property uchar red
property double z
property float x
property float y
element face 1
property list uchar int vertex_indices
end_header
"""


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_points_come_back(tmp_path: Path, kind: str) -> None:
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}.get(kind)
    rows = [(7, z, x, y) for x, y, z in POINTS]
    if order is None:
        body = "".join(" ".join(map(str, row)) + "\n" for row in rows).encode() + b"3 0 1 2\n"
    else:
        body = b"".join(struct.pack(f"{order}Bdff", *row) for row in rows) + b"\x03" + bytes(12)
    (tmp_path / "p.ply").write_bytes(HEAD.format(kind).encode() + body)
    assert read_ply(tmp_path / "p.ply").tolist() == [list(place) for place in POINTS[:2]]
    (tmp_path / "p.ply").write_bytes(HEAD.format(kind).encode() + body[: len(body) // 3])
    with pytest.raises(UserError, match=r"cannot read the points of .*p\.ply"):
        read_ply(tmp_path / "p.ply")


@pytest.mark.parametrize(
    ("old", "new"),
    [("ply\n", "pie\n"), ("vertex 3", "vertex -3"), ("vertex 3", "vertex 99999999999999999"), ("ascii", "morse"),
     ("float x", "float w"), ("float x", "float y"), ("double z", "list uchar int z"), ("double z", "quad z"),
     ("element vertex 3", "element face 1"), ("end_header", "")],
)  # fmt: skip
def test_headers_that_say_something_else(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "p.ply").write_text(HEAD.format("ascii").replace(old, new) + "7 3 1 2\n" * 3)
    with pytest.raises(UserError, match=r"cannot read the points of .*p\.ply"):
        read_ply(tmp_path / "p.ply")


def test_depths_are_percentiles_of_what_is_seen() -> None:
    """A camera at the origin that looks along -z, with a field of view of 90 degrees, and one that looks back."""
    c2w = torch.eye(3, 4, dtype=torch.float64).expand(2, 3, 4).clone()
    c2w[1, 0, 0] = c2w[1, 2, 2] = -1
    lens = Lens(100, 100, 50, 50, 50, 50)
    ahead = torch.linspace(1, 11, 1001, dtype=torch.float64)
    points = torch.stack([0.9 * ahead, 0 * ahead, -ahead], dim=-1)
    beside = torch.tensor([[50.0, 0, -0.1], [0, -1.2, -1.0]]).double()
    bounds = depths_of_points(torch.cat([points, beside]), c2w, [lens, lens])
    assert bounds is not None
    torch.testing.assert_close(bounds[0], torch.tensor([1.01, 10.99]).double(), atol=1e-6, rtol=0)
    assert bounds[1].tolist() == bounds[0].tolist()  # it sees none, and takes the other's
    assert depths_of_points(points[:3], c2w, [lens, lens]) is None


def test_cameras_that_look_at_no_one_point() -> None:
    c2w = torch.eye(3, 4, dtype=torch.float64).expand(3, 3, 4).clone()
    c2w[:, 0, 3] = torch.tensor([-1.0, 0, 1])
    assert focus_depths(c2w) is None  # parallel
    c2w[0, :, :3] = c2w[2, :, :3] = torch.diag(torch.tensor([-1.0, 1, -1])).double()
    assert focus_depths(c2w) is None  # back to back
