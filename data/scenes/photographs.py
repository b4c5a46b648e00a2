"""Photographs on disk as tensors: finding, reading and reducing them, and saying what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ids3d.data.scenes.undistortion import Undistortion
from ids3d.errors import UserError
from ids3d.progress import QUICK, track

SUFFIXES = {".jpg", ".jpeg", ".png"}
_ORIENTATION = 0x0112  # EXIF tag; its values 5 to 8 exchange width and height
_THREADS = 8  # at most; each holds one image at the size that it is decoded at

T = TypeVar("T")


@dataclass(frozen=True)
class Photograph:
    """An image file whose header has been read.

    Attributes:
        path: where it is.
        width, height: in pixels, after turning it upright if `turn`.
        turn: whether the EXIF orientation is to be applied.
        transparent: whether it has transparency.
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


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image as it is stored. Raises UserError: the file is no readable image."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise _unreadable(path, error) from error


def inspect(path: Path, width: float, height: float) -> Photograph:
    """Read an image's size, for a camera whose full image is width x height pixels.

    Structure from motion reads pixels as they are stored, so an EXIF orientation is applied only where the
    image has the camera's proportions with it and not without it.

    Raises:
        UserError: the file is no readable image, or its proportions are not the camera's.
    """
    try:
        with Image.open(path) as image:
            stored, transparent = image.size, image.has_transparency_data
            if same_proportions(*stored, width, height):
                return Photograph(path, *stored, transparent=transparent)
            orientation = image.getexif().get(_ORIENTATION, 1)  # of a PNG, this decodes it
    except Exception as error:  # as above
        raise _unreadable(path, error) from error
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
    photographs: Sequence[Photograph],
    height: int,
    width: int,
    background: Sequence[float],
    undistortions: Sequence[Undistortion | None] = (),
) -> tuple[Tensor, Tensor | None]:
    """Read images (n, height, width, 3) float32 in [0, 1], sRGB as stored, several at a time.

    Larger ones are reduced (Lanczos; JPEG's first in decoding, to no less than twice the size); transparent ones are
    laid over the background (rgb in [0, 1]).

    Args:
        undistortions: of each, what is to be done about its lens. Empty: nothing.

    Returns: the images, and their opacity (n, height, width) in [0, 1], None where all are opaque.

    Raises:
        UserError: a file is damaged, or not of 8 bits per channel.
    """
    n = len(photographs)
    images = torch.empty(n, height, width, 3)
    opacity = torch.ones(n, height, width) if any(p.transparent for p in photographs) else None
    behind = torch.tensor(background, dtype=torch.float32)

    def read(i: int) -> None:
        undistortion = undistortions[i] if undistortions else None
        values = _pixels(photographs[i], height, width, undistortion)
        if values.shape[-1] == 4:  # times alpha, so that reducing mixes in no hidden colours
            assert opacity is not None
            opacity[i] = values[..., 3].clamp(0, 1)
            values = values[..., :3] + (1 - values[..., 3:]) * behind
        images[i] = values.clamp(0, 1)

    for _ in track(_in_threads(read, range(n)), "reading images", n, unit="image", delay=QUICK):
        pass
    return images, opacity


def read_masks(
    paths: Sequence[Path], height: int, width: int, undistortions: Sequence[Undistortion | None] = ()
) -> Tensor:
    """(n, height, width) bool: where a mask image is brighter than half, once averaged to this size.

    Raises:
        UserError: a file is damaged.
    """
    masks = torch.empty(len(paths), height, width, dtype=torch.bool)

    def read(i: int) -> None:
        try:
            with Image.open(paths[i]) as image:
                averaged = image.convert("L").resize((width, height), Image.Resampling.BOX)
        except Exception as error:  # as above
            raise _unreadable(paths[i], error) from error
        pixels = np.array(averaged)
        if undistortions and (undistortion := undistortions[i]) is not None:
            pixels = undistortion.apply(pixels[..., None], height, width, order=1)[..., 0]
        masks[i] = torch.from_numpy(pixels) > 127

    for _ in track(_in_threads(read, range(len(paths))), "reading masks", len(paths), delay=QUICK):
        pass
    return masks


def _in_threads(work: Callable[[int], T], items: Sequence[int]) -> Iterator[T]:
    """Results in order; what is wrong with the first item that is wrong is raised, as in a serial loop."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _pixels(photograph: Photograph, height: int, width: int, undistortion: Undistortion | None) -> Tensor:
    """(height, width, 3 or 4) float32, about in [0, 1]; where there are 4, the colours are times the fourth."""
    # What undistortion makes smaller in the middle is reduced before, so that nothing is skipped there.
    shrink = min(1.0, undistortion.zoom) if undistortion is not None else 1.0
    size = max(1, round(shrink * width)), max(1, round(shrink * height))
    image = _decode(photograph, size)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    values = np.array(image, dtype=np.float32)
    if undistortion is not None:
        values = undistortion.apply(values, height, width)
    return torch.from_numpy(values) / 255


def _decode(photograph: Photograph, size: tuple[int, int]) -> Image.Image:
    """The image as mode RGB, or RGBa (premultiplied) if it has transparency; a JPEG at twice `size` or more."""
    try:
        with Image.open(photograph.path) as image:
            twice = (2 * size[0], 2 * size[1])
            image.draft(None, twice[::-1] if photograph.turn else twice)
            image.load()
            upright = ImageOps.exif_transpose(image) if photograph.turn else image.copy()
    except Exception as error:  # as above
        raise _unreadable(photograph.path, error) from error
    if upright.mode.startswith(("I", "F")):
        raise UserError(f"{photograph.path} is of mode {upright.mode}: save it with 8 bits per channel")
    return upright.convert("RGBA").convert("RGBa") if photograph.transparent else upright.convert("RGB")


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"cannot read the image {path}: {error or type(error).__name__}")
