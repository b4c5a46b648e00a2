"""Photographs on disk as tensors: finding, reading and reducing them, and saying what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ids3d.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png"}
_ORIENTATION = 0x0112  # EXIF tag; its values 5 to 8 exchange width and height


@dataclass(frozen=True)
class Photograph:
    """An image file whose header has been read.

    Attributes:
        path: where it is.
        width, height: in pixels, after turning it upright if `turn`.
        turn: whether the EXIF orientation is to be applied.
    """

    path: Path
    width: int
    height: int
    turn: bool = False
    transparent: bool = False


def find_photographs(folder: Path) -> list[Path]:
    """The JPEG and PNG files of a folder, sorted by name as LLFF and COLMAP do; hidden files do not count."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted((p for p in files if p.is_file()), key=lambda p: p.name)


def inspect(path: Path, width: float, height: float) -> Photograph:
    """Read an image's size, for a camera whose full image is width x height pixels.

    Structure from motion reads pixels as they are stored, so an EXIF orientation is applied only where the
    image has the camera's proportions with it and not without it.

    Raises:
        UserError: the file is no readable image, or its proportions are not the camera's.
    """
    try:
        with Image.open(path) as image:
            stored, orientation = image.size, image.getexif().get(_ORIENTATION, 1)
            transparent = image.has_transparency_data
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise _unreadable(path, error) from error
    if same_proportions(*stored, width, height):
        return Photograph(path, *stored, transparent=transparent)
    if orientation in (5, 6, 7, 8) and same_proportions(stored[1], stored[0], width, height):
        return Photograph(path, stored[1], stored[0], turn=True, transparent=transparent)
    raise UserError(
        f"{path} has {stored[0]}x{stored[1]} pixels, which is no reduction of the {width:g}x{height:g} that the "
        "poses are for: use the images that the poses were found from, uncropped"
    )


def same_proportions(width: float, height: float, full_width: float, full_height: float) -> bool:
    """Whether one image can be the other one reduced, each side rounded up or down to whole pixels."""
    return abs(width * full_height - height * full_width) <= full_width + full_height


def read_photographs(
    photographs: Sequence[Photograph], height: int, width: int, background: Sequence[float]
) -> Tensor:
    """(n, height, width, 3) float32 in [0, 1], sRGB as stored.

    Larger images are reduced (Lanczos); transparent ones are laid over the background (rgb in [0, 1]).

    Raises:
        UserError: a file is damaged, or not of 8 bits per channel.
    """
    images = torch.empty(len(photographs), height, width, 3)
    for slot, photograph in zip(images, photographs, strict=True):
        pixels = _decode(photograph)
        if pixels.size != (width, height):
            pixels = pixels.resize((width, height), Image.Resampling.LANCZOS)
        values = torch.from_numpy(np.array(pixels, dtype=np.float32)) / 255
        if pixels.mode == "RGBa":  # times alpha, so that reducing mixes in no hidden colours
            values = values[..., :3] + (1 - values[..., 3:]) * torch.tensor(background, dtype=torch.float32)
        slot.copy_(values.clamp(0, 1))
    return images


def read_masks(paths: Sequence[Path], height: int, width: int) -> Tensor:
    """(n, height, width) bool: where a mask image is brighter than half, once averaged to this size.

    Raises:
        UserError: a file is damaged.
    """
    masks = torch.empty(len(paths), height, width, dtype=torch.bool)
    for slot, path in zip(masks, paths, strict=True):
        try:
            with Image.open(path) as image:
                pixels = image.convert("L").resize((width, height), Image.Resampling.BOX)
        except Exception as error:  # as above
            raise _unreadable(path, error) from error
        slot.copy_(torch.from_numpy(np.array(pixels)) > 127)
    return masks


def _decode(photograph: Photograph) -> Image.Image:
    """The image as mode RGB, or RGBa (premultiplied) if anything of it is transparent."""
    try:
        with Image.open(photograph.path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image) if photograph.turn else image.copy()
    except Exception as error:  # as above
        raise _unreadable(photograph.path, error) from error
    if upright.mode.startswith(("I", "F")):
        raise UserError(f"{photograph.path} is of mode {upright.mode}: save it with 8 bits per channel")
    return (
        upright.convert("RGBA").convert("RGBa") if upright.has_transparency_data else upright.convert("RGB")
    )


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"cannot read the image {path}: {error or type(error).__name__}")
