"""The pictures that cameras are looked for in: of one size, upright, with names that any tool can read."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ids3d.capture import frames as frames_of
from ids3d.capture import photographs as photos
from ids3d.capture.photographs import Photograph
from ids3d.capture.video import Video, read_chosen
from ids3d.errors import UserError
from ids3d.files import atomic_write
from ids3d.progress import track

FEWEST = 5
"""Pictures that a capture needs: with fewer there is no telling a good reconstruction from a lucky one."""

SHARPNESS_SIZE = 960  # pixels, longest side: finer blur than this shows is no harm
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Picture:
    """A picture as it lies in the stage's folder `images/`.

    Attributes:
        name: its file's.
        source: what the user knows it by: a file name, or a time in the video.
        sharpness: of `ids3d.capture.frames`.
        camera: pictures of the same number were taken with one camera, lens and zoom.
        focal: focal length in its pixels, where EXIF says it.
    """

    name: str
    source: str
    sharpness: float
    camera: int
    focal: float | None


@dataclass(frozen=True)
class Pictures:
    """All pictures, in the order that they were taken in.

    Attributes:
        width, height: of each, in pixels.
        pictures: the pictures.
        moving: they are of a video: neighbours show nearly the same.
        notes: what was done to them that the user should know of, a sentence each.
    """

    width: int
    height: int
    pictures: tuple[Picture, ...]
    moving: bool
    notes: tuple[str, ...]

    def write(self, folder: Path) -> None:
        with atomic_write(folder / "pictures.json") as file:
            file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Pictures:
        """Read what `write` wrote."""
        held = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))
        pictures = tuple(Picture(**picture) for picture in held["pictures"])
        return Pictures(held["width"], held["height"], pictures, held["moving"], tuple(held["notes"]))


def take_frames(folder: Path, video: Video, chosen: Sequence[int], longest: int) -> None:
    """Keep these frames of a video, reduced to a longest side of `longest` pixels."""
    named = {index: f"frame_{index:06d}.png" for index in chosen}
    if not all((folder / "images" / name).exists() for name in named.values()):
        for index, pixels in track(
            read_chosen(video, chosen, longest), "taking frames", len(chosen), "frame"
        ):
            _save(folder / "images" / named[index], Image.fromarray(pixels))
    width, height = video.reduced(longest)
    pictures = []
    for index, name in named.items():
        if not (folder / "images" / name).exists():
            raise UserError(f"{video.path} is damaged: it ends before frame {index} of {video.frames}")
        sharp = _sharpness(folder / "images" / name)
        pictures.append(Picture(name, f"{video.seconds_at(index):.2f} s", sharp, 0, None))
    Pictures(width, height, tuple(pictures), True, ()).write(folder)


def take_photographs(folder: Path, files: Sequence[Path], longest: int) -> None:
    """Keep these photographs, upright and reduced to a longest side of `longest` pixels, all of one size.

    All views of a scene have one size: the most frequent. A photograph that has it only when it is turned by a
    quarter lies on its side; one of other proportions is left out, and said to be.
    """
    found = [photos.inspect(path) for path in track(files, "looking at photographs", unit="photograph")]
    sizes = [_reduced(p.width, p.height, longest) for p in found]
    (width, height), _ = Counter(sizes).most_common(1)[0]
    fitting: list[tuple[Photograph, bool]] = []
    left_out = []
    for photograph, size in zip(found, sizes, strict=True):
        if _same_proportions(size, (width, height)):
            fitting.append((photograph, False))
        elif _same_proportions(size, (height, width)):
            fitting.append((photograph, True))
        else:
            left_out.append(photograph.path.name)
    names = safe_names([photograph.path.stem for photograph, _ in fitting])
    cameras: dict[tuple[str, bool], int] = {}
    pictures = []
    for (photograph, lying), stem in track(
        list(zip(fitting, names, strict=True)), "reading photographs", unit="photograph"
    ):
        file = folder / "images" / f"{stem}.png"
        if not file.exists():
            image = photos.load(photograph.path)
            image = image.transpose(Image.Transpose.ROTATE_90) if lying else image
            _save(file, image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))
        scale = max(width, height) / max(photograph.width, photograph.height)
        focal = photograph.focal * scale if photograph.focal else None
        camera = cameras.setdefault((photograph.lens, lying), len(cameras))
        pictures.append(Picture(file.name, photograph.path.name, _sharpness(file), camera, focal))
    notes = []
    on_side = [photograph.path.name for photograph, lying in fitting if lying]
    if on_side:
        notes.append(f"lie on their side, as most are {width}x{height}: {listed(on_side)}")
    if left_out:
        notes.append(f"left out, as most have the proportions of {width}x{height}: {listed(left_out)}")
    Pictures(width, height, tuple(pictures), False, tuple(notes)).write(folder)


def safe_names(stems: Iterable[str]) -> list[str]:
    """Names for files out of names of any kind: letters, digits, dot, dash and underscore, no two alike.

    Example:
        >>> safe_names(["IMG 1", "IMG_1", "../x", "-rf", "été"])
        ['IMG_1', 'IMG_1-2', 'x', 'rf', 't']
    """
    made: list[str] = []
    taken: set[str] = set()
    for stem in stems:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-")[:_LONGEST_NAME] or "picture"
        name, number = plain, 1
        while name.lower() in taken:  # some file systems do not know a from A
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.lower())
        made.append(name)
    return made


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a line: the first of them, and how many more there are.

    Example:
        >>> listed(["a", "b", "c", "d", "e", "f"])
        'a, b, c, d and 2 more'
    """
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _reduced(width: int, height: int, longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _same_proportions(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one can be the other, resized and each side rounded."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= (sum(size) + sum(other)) / 2


def _save(path: Path, image: Image.Image) -> None:
    with atomic_write(path) as file:
        image.save(file, format="PNG", compress_level=1)


def _sharpness(path: Path) -> float:
    with Image.open(path) as image:
        grey = image.convert("L")
    size = _reduced(*grey.size, SHARPNESS_SIZE)
    grey = grey if size == grey.size else grey.resize(size, Image.Resampling.BOX)
    return frames_of.sharpness(np.asarray(grey))
