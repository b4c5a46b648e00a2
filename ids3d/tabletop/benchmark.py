"""A benchmark of image edits as files: pictures before and after, masks, and a table of captions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ids3d.errors import UserError
from ids3d.images import to_bytes
from ids3d.progress import track
from ids3d.tabletop.edits import edit_camera, render_edit, sample_edit

COLUMNS = ("name", "kind", "source", "target", "seed")


def write_edits(
    root: Path,
    seeds: Sequence[int],
    kinds: Sequence[str],
    size: int = 128,
    objects: int | None = None,
    supersampling: int = 2,
) -> None:
    """Write an edit for each seed, the kinds taking turns: `<name>/{source,truth,mask}.png` and a row in `prompts.csv`.

    The pictures are of size x size pixels; `objects` is how many there are before the edit (default: by the seed).
    Masks are white where the edit touches. The columns of the table are COLUMNS.

    Raises:
        UserError: the folder is not empty.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} exists and is not an empty folder: choose another --out, or remove it")
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, seed in enumerate(track(seeds, "rendering edits", unit="edit")):
        edit = sample_edit(seed, (kinds[index % len(kinds)],), objects)
        view = render_edit(edit, edit_camera(seed, edit, size), supersampling)
        name = f"{index:03d}-{edit.kind}"
        (root / name).mkdir()
        Image.fromarray(to_bytes(view.before.rgb)).save(root / name / "source.png")
        Image.fromarray(to_bytes(view.after.rgb)).save(root / name / "truth.png")
        Image.fromarray(view.mask.numpy()).convert("L").save(root / name / "mask.png")
        rows.append((name, edit.kind, edit.source, edit.target, seed))
    with (root / "prompts.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        table.writerows(rows)
