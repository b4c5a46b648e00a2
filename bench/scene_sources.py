"""The scenes that are edited: held-out ones of the tabletop world, or a user's own."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from ids3d.cameras import Cameras
from ids3d.errors import UserError
from ids3d.files import atomic_write
from ids3d.reading import given_path, is_plain, read_text
from ids3d.tabletop.edits import Edit, held_out_edit
from ids3d.tabletop.folders import write_llff
from ids3d.tabletop.scene import HELD_OUT, forward_cameras, middle, open_side

KINDS = ("recolour", "reshape", "floor")


@dataclass(frozen=True)
class SceneSource:
    """A scene to edit.

    Attributes:
        name: what its results are called.
        root: its folder.
        kind: of edit, in the tabletop world; "" elsewhere.
        source, target: prompts; None: the scene's own captions.
    """

    name: str
    root: Path
    kind: str = ""
    source: str | None = None
    target: str | None = None


def tabletop_sources(folder: Path, scenes: int, views: int, size: int) -> list[SceneSource]:
    """Write held-out tabletop scenes as LLFF folders, where they are not there yet; the kinds of edit take turns.

    Args:
        folder: where they are kept, each in a folder of its own.
        views: of each scene.
        size: of the images, pixels.
    """
    sources = []
    for index in range(scenes):
        edit = held_out_edit(index, (KINDS[index % len(KINDS)],))
        name = f"tabletop-{index:03d}-{edit.kind}"
        root = folder / f"{name}-{views}x{size}"
        if not root.exists():
            cameras = tabletop_cameras(index, edit, views, size)
            with atomic_write(root) as unfinished:
                write_llff(unfinished, edit, cameras, supersampling=2)
        sources.append(SceneSource(name, root, edit.kind))
    return sources


def tabletop_cameras(index: int, edit: Edit, views: int, size: int) -> Cameras:
    """The cameras that see the held-out scene of an index."""
    scene = edit.before
    return forward_cameras(HELD_OUT + index, views, size, open_side(scene), 28.0, middle(scene))


def listed_sources(table: Path) -> list[SceneSource]:
    """Read a CSV file with the columns root, source, target; folders are relative to it. Raises UserError."""
    try:
        lines = io.StringIO(read_text(table), newline="")
        rows = list(csv.DictReader(lines, restval=""))
    except (UserError, csv.Error) as error:
        raise UserError(f"--scenes {table}: cannot be read: {error}") from error
    sources = []
    for number, row in enumerate(rows, start=2):
        where = f"--scenes {table}, line {number}"
        if None in row:
            raise UserError(f"{where}: more values than columns: a prompt with a comma goes in quotes")
        texts = {key: str(row.get(key) or "") for key in ("root", "source", "target")}
        if not texts["root"]:
            raise UserError(f"{where}: no root; the columns are root, source, target")
        if not all(map(is_plain, texts.values())):
            raise UserError(f"{where}: a text that no file can hold")
        root = given_path(str(table.parent / texts["root"]), where).resolve()
        sources.append(SceneSource(root.name, root, "", texts["source"] or None, texts["target"] or None))
    if not sources:
        raise UserError(f"--scenes {table}: lists no scene")
    return sources
