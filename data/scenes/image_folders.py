"""Which of a scene's folders of images to read, and the size to bring its images to.

Beside `images/` there often are the same images reduced, in `images_2/`, `images_4/`, `images_8/`; or those alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ids3d.data.scenes.photographs import SUFFIXES, Photograph, inspect, stored_size
from ids3d.data.scenes.protocol import SceneConfig
from ids3d.errors import UserError
from ids3d.lenses import Lens


@dataclass(frozen=True)
class Choice:
    """The images to read.

    Attributes:
        folder: the name of the folder.
        files: of its images, in the views' order.
        wanted: their longest side is to be this many pixels, if it is more.
        found: a word on what there was.
    """

    folder: str
    files: list[Path]
    wanted: int
    found: str


def choose_folder(
    root: Path, folders: Mapping[str, list[Path]], lens: Lens | None, cfg: SceneConfig
) -> Choice:
    """Choose the folder with the smallest images that are large enough, so that little is decoded and reduced.

    Args:
        folders: the images of each, by its name.
        lens: of the first view, at its full size; None: not known before an image is read.

    Raises UserError: an image is none, or there are none as large as `downsample` asks for, and none is enlarged.
    """
    sizes = {name: _size(files[0], lens) for name, files in folders.items()}
    longest = {name: max(size) for name, size in sizes.items()}
    by_size = sorted(folders, key=lambda name: longest[name])
    full = longest[by_size[-1]] if lens is None else max(lens.width, lens.height)
    if cfg.downsample is None:
        wanted = cfg.max_size
        large_enough = [name for name in by_size if longest[name] >= 0.9 * wanted] or by_size[-1:]
    else:
        wanted = round(full / cfg.downsample)
        large_enough = [name for name in by_size if longest[name] >= wanted - 1]
    shown = ", ".join(f"{name}/ {sizes[name][0]}x{sizes[name][1]}" for name in by_size)
    if not large_enough:
        raise UserError(
            f"{root}: downsample={cfg.downsample:g} asks for {wanted} pixels, there is only {shown}, and "
            f"images are not enlarged; use downsample={full / longest[by_size[-1]]:.4g}"
        )
    return Choice(large_enough[0], folders[large_enough[0]], wanted, shown)


def _size(path: Path, lens: Lens | None) -> tuple[int, int]:
    if lens is None:
        return stored_size(path)
    photograph = inspect(path, lens.width, lens.height)
    return photograph.width, photograph.height


def common_size(photographs: Sequence[Photograph], choice: Choice) -> tuple[tuple[int, int], str]:
    """The size (width, height) to bring images to, and a word on it. Raises UserError: they differ in size."""
    first = photographs[0]
    for p in photographs:
        if (p.width, p.height) != (first.width, first.height):
            raise UserError(
                f"images of differing sizes in {p.path.parent}: {first.path.name} has {first.width}x{first.height} "
                f"pixels and {p.path.name} {p.width}x{p.height}; all views of a scene must have one size"
            )
    longest = max(first.width, first.height)
    reduction = longest / choice.wanted if longest > choice.wanted + 1 else 1.0
    size = max(1, round(first.width / reduction)), max(1, round(first.height / reduction))
    used = f"reduced to {size[0]}x{size[1]}" if reduction > 1 else "as they are"
    return size, f"found {choice.found}, using {choice.folder}/ {used}"


def named_images(root: Path, names: Sequence[str], source: Path) -> dict[str, list[Path]]:
    """The files that hold images of given names, in each folder that has them all.

    Args:
        names: paths relative to `root`, such as images/a/001.png; the suffix may be missing or another one. Where they
            are all in one folder, those beside it whose names end with _2, _4, ... count too.
        source: the file that names them, for messages.

    Raises UserError: a path that leads out of the root; or an image that is in no folder.
    """
    paths = [inside(root, name, source) for name in names]
    (top, *others) = {path.parts[0] if len(path.parts) > 1 else "" for path in paths}
    if others or not top:
        folders = {".": root}
        rests = paths
    else:
        reduced = re.compile(rf"{re.escape(top)}(_\d+)?")
        folders = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and reduced.fullmatch(p.name)}
        rests = [path.relative_to(top) for path in paths]
    complete, missing = {}, ""
    for name, folder in folders.items():
        files = [_existing(folder / rest) for rest in rests]
        if None not in files:
            complete[name] = [file for file in files if file is not None]
        missing = missing or next(
            (str(folder / r) for r, f in zip(rests, files, strict=True) if f is None), ""
        )
    if not complete:
        raise UserError(f"there is no image {missing or root / paths[0]}, which {source} names")
    return complete


def inside(root: Path, name: str, source: Path) -> PurePosixPath:
    """A path that a file gives, relative to the root. Raises UserError: it leads out of there."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(root.resolve().as_posix()):
        path = path.relative_to(root.resolve().as_posix())
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(f"{source} names the file {name[:200]!r}, which is not in the scene's folder")
    if len(name) > 4000 or any(len(part.encode(errors="replace")) > 255 for part in path.parts):
        raise UserError(f"{source} names a file as none can be called: {name[:200]!r}...")
    return path


def _existing(path: Path) -> Path | None:
    """The image at a path, or else with the path's suffix changed for, or followed by, one of an image."""
    try:
        if path.is_file():
            return path
        suffixes = [s for suffix in sorted(SUFFIXES) for s in (suffix, suffix.upper())]
        stems = [path, *([path.with_suffix("")] if path.suffix.lower() in SUFFIXES else [])]
        others = (stem.with_name(stem.name + suffix) for stem in stems for suffix in suffixes)
        return next((other for other in others if other.is_file()), None)
    except (OSError, ValueError):  # a name too long, or with what no name has
        return None
