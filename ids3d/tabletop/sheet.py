"""Contact sheets: many small pictures with a few words under each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ids3d.images import to_bytes
from ids3d.tabletop.edits import edit_camera, render_edit, sample_edit
from ids3d.tabletop.render import render
from ids3d.tabletop.scene import TabletopScene, sample_camera, sample_scene
from ids3d.tabletop.world import LIGHT, World

LINE = 12  # pixels of height of a line of text


@dataclass(frozen=True)
class Cell:
    """A picture (h, w, 3) in [0, 1] and the lines under it; those of `alarm` are red."""

    picture: Tensor
    lines: tuple[str, ...] = ()
    alarm: tuple[str, ...] = ()


def contact_sheet(cells: Iterable[Cell], columns: int = 8, side: int = 128) -> Image.Image:
    """Cells in rows of `columns`, as wide as the widest picture or line.

    Images of less than `side` pixels are enlarged by the largest whole factor that keeps them within it.
    """
    font = ImageFont.load_default(size=10)
    shown = [(cell, _enlarged(cell.picture, side)) for cell in cells]
    columns = min(columns, len(shown))
    text = LINE * max(len(cell.lines) + len(cell.alarm) for cell, _ in shown)
    longest = max(
        (font.getlength(line) for cell, _ in shown for line in (*cell.lines, *cell.alarm)), default=0
    )
    width, height = (max(picture.size[axis] for _, picture in shown) + 4 for axis in (0, 1))
    width, height = max(width, int(longest) + 5), height + text
    sheet = Image.new("RGB", (columns * width, -(-len(shown) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (cell, picture) in enumerate(shown):
        left, top = index % columns * width, index // columns * height
        sheet.paste(picture, (left, top))
        lines = chain(((line, "black") for line in cell.lines), ((line, "red") for line in cell.alarm))
        for row, (line, colour) in enumerate(lines):
            draw.text((left + 1, top + height - text - 3 + row * LINE), line, fill=colour, font=font)
    return sheet


def in_short(scene: TabletopScene) -> tuple[str, ...]:
    """What a scene shows, a line for each object and one for the floor: it fits under a small picture."""
    return (*(f"{thing.colour} {thing.shape}" for thing in scene.objects), f"{scene.floor} floor")


def scene_cell(seed: int, size: int, world: World = LIGHT) -> Cell:
    """The picture of a seed's scene by the seed's camera."""
    scene = sample_scene(seed, world=world)
    return Cell(render(scene, sample_camera(seed, scene, size)).rgb, (str(seed), *in_short(scene)))


def edit_cell(seed: int, kind: str, size: int, world: World = LIGHT) -> Cell:
    """A seed's edit of a kind: before, after and mask, side by side."""
    edit = sample_edit(seed, (kind,), world=world)
    view = render_edit(edit, edit_camera(seed, edit, size))
    mask = view.mask[..., None].expand(view.before.rgb.shape).float()
    strip = torch.cat([view.before.rgb, view.after.rgb, mask], dim=1)
    return Cell(strip, (f"{seed}: {edit.source}", f"-> {edit.target}"))


def _enlarged(picture: Tensor, side: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(to_bytes(picture)))
    factor = max(1, side // image.height)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
