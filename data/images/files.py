"""Images to edit: one, a folder of them with a table of prompts, or a tabletop image whose true edit is known."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence

from ids3d.config.bounds import check_bounds
from ids3d.errors import UserError
from ids3d.reading import given_path, is_plain, read_text
from ids3d.registry import register
from ids3d.tabletop.edits import edit_camera, held_out_edit, render_edit
from ids3d.tabletop.scene import HELD_OUT
from ids3d.tasks import LONGEST_NAME, EditTask, SourceImage

log = logging.getLogger(__name__)

SMALLEST = 8  # pixels; an image with a shorter side is no image of anything


@register("images", "files")
class ImageFiles:
    """What is to be edited: `image`, or else `folder` with its table, or else a held-out tabletop edit."""

    @dataclass
    class Config:
        image: str | None = None  # an image file
        folder: str | None = None  # a folder of images and a table of prompts
        table: str = "prompts.csv"  # in the folder: a CSV file with the columns name, source, target
        edit: int = 0  # which of the held-out tabletop edits, where there is neither

        def __post_init__(self) -> None:
            if self.image is not None and self.folder is not None:
                raise ValueError("image and folder: give one of them")
            check_bounds(self, edit="[0, 1e6]")

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def tasks(self, size: int) -> list[EditTask]:
        """The images, none read yet; tabletop images are rendered with sides of `size` pixels.

        Raises UserError: there is no such file or folder, or the table is not one.
        """
        cfg = self.cfg
        if cfg.image is not None:
            path = given_path(cfg.image, "data.image")
            if not path.is_file():
                raise UserError(f"data.image {path}: there is no such file")
            return [EditTask(path.stem, None, None, lambda: read_image(path))]
        if cfg.folder is not None:
            return list(_table(given_path(cfg.folder, "data.folder"), cfg.table))
        return [tabletop_task(cfg.edit, size)]


def tabletop_task(
    index: int, size: int, kinds: tuple[str, ...] = ("recolour", "reshape", "floor")
) -> EditTask:
    """The index-th held-out edit of the tabletop world, the kinds taking turns, as an image of size x size pixels."""
    edit = held_out_edit(index, (kinds[index % len(kinds)],))

    def read() -> SourceImage:
        view = render_edit(edit, edit_camera(HELD_OUT + index, edit, size))
        return SourceImage(view.before.rgb, (), view.after.rgb, view.mask)

    return EditTask(f"tabletop-{index:03d}-{edit.kind}", edit.source, edit.target, read, "tabletop")


def read_image(path: Path) -> SourceImage:
    """An image file as RGB, upright. Grey, palette, CMYK, 16-bit, transparent and moving images are converted.

    What is transparent is shown on white; of a moving image the first frame is taken. Raises UserError.
    """
    try:
        with Image.open(path) as file:
            frames = sum(1 for _ in ImageSequence.Iterator(file))
            file.seek(0)
            image = ImageOps.exif_transpose(file)
            image.load()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise UserError(
            f"{path}: cannot be read as an image ({str(error) or type(error).__name__})"
        ) from error
    if min(image.size) < SMALLEST:
        raise UserError(
            f"{path}: {image.width}x{image.height} pixels, too small to edit (at least {SMALLEST}x{SMALLEST})"
        )
    notes = [f"the first of {frames} frames"] if frames > 1 else []
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise UserError(f"{path}: has pixels that are nan or infinite")
        top = 65535.0 if image.mode != "F" else max(1.0, float(values.max()))
        grey = torch.from_numpy((values / top).clip(0, 1)).float()
        return SourceImage(grey[..., None].expand(-1, -1, 3).contiguous(), (*notes, "grey, more than 8 bits"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            notes.append("transparency shown on white")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode != "RGB":
        names = {"L": "grey", "1": "black and white", "P": "a palette", "CMYK": "CMYK"}
        notes.append(f"{names.get(image.mode, image.mode)} made RGB")
    rgb = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float() / 255
    return SourceImage(rgb, tuple(notes))


def _table(folder: Path, table: str) -> Iterator[EditTask]:
    """A row each. `name` is an image file, or a folder with source.png, and, where known, truth.png and mask.png."""
    if not folder.is_dir():
        raise UserError(f"data.folder {folder}: there is no such folder")
    file = folder / table
    if not file.exists():
        raise UserError(f"{file}: there is no such table (data.table; columns name, source, target)")
    seen: dict[str, str] = {}
    for line, row in _rows(file):
        given = row["name"].strip()
        path = Path(given)
        if not given:
            raise UserError(f"{file}, line {line}: no name")
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise UserError(f"{file}, line {line}: {given!r} leads out of the table's folder")
        if len(given.encode()) > LONGEST_NAME:
            raise UserError(f"{file}, line {line}: a name of more than {LONGEST_NAME} bytes")
        name = str(path if (folder / path).is_dir() else path.with_suffix("")).replace("/", "_")
        if name in seen:
            both = (
                "is there twice"
                if seen[name] == given
                else f"and {seen[name]} would share one folder of results"
            )
            raise UserError(f"{file}, line {line}: {given} {both}")
        seen[name] = given
        yield EditTask(name, row["source"], row["target"], partial(_read, folder / given))


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table, by column, each with its line. Raises UserError for a row that does not fit the columns."""
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    wanted = ("name", "source", "target")
    try:
        columns = list(reader.fieldnames or ())
        missing = [column for column in wanted if column not in columns]
        if missing or len(set(columns)) < len(columns):
            what = f"no column {', '.join(missing)}" if missing else "a column is there twice"
            raise UserError(f"{file}: {what} (columns: name, source, target)")
        empty = True
        for row in reader:
            if None in row:
                raise UserError(
                    f"{file}, line {reader.line_num}: {len(columns) + len(row[None])} values for {len(columns)} "  # type: ignore[call-overload]
                    'columns; a prompt that has a comma goes in quotes: "a cube, red"'
                )
            if not all(is_plain(text or "") for text in row.values()):
                raise UserError(f"{file}, line {reader.line_num}: has characters that no text has")
            if any(row[column] is None for column in wanted):
                raise UserError(f"{file}, line {reader.line_num}: fewer values than {', '.join(columns)}")
            empty = False
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: cannot be read as CSV ({error})") from error
    if empty:
        raise UserError(f"{file}: no rows below the header: nothing to edit")


def _read(path: Path) -> SourceImage:
    """An image file, or a folder that holds source.png and what is known of the true edit."""
    if not path.is_dir():
        return read_image(path)
    source = read_image(path / "source.png")
    truth, mask = (
        read_image(path / name).rgb if (path / name).exists() else None for name in ("truth.png", "mask.png")
    )
    for name, other in (("truth.png", truth), ("mask.png", mask)):
        if other is not None and other.shape != source.rgb.shape:
            raise UserError(f"{path / name}: not of the size of source.png")
    return SourceImage(source.rgb, source.notes, truth, None if mask is None else mask[..., 0] > 0.5)
