"""From a video or a folder of photographs to a scene's folder, in stages that are kept."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ids3d.capture import database, flatten, frames, mapping, photographs, pictures, transforms, video
from ids3d.capture.colmap import pycolmap
from ids3d.capture.effort import EFFORTS, ENOUGH
from ids3d.capture.pictures import FEWEST, Pictures
from ids3d.capture.report import Report, judge
from ids3d.capture.stages import identity, stage
from ids3d.errors import UserError
from ids3d.files import atomic_write, cannot_write, locked
from ids3d.progress import track

CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")
MATCHERS = ("exhaustive", "sequential")
MOST_FRAMES = 200  # of a video, where nothing else is said

# A video's frames that are looked at: some for each that may be kept, and enough that the camera goes no great way
# from one to the next.
_LOOKED_AT_A_SECOND = 10
_LOOKED_AT = 3000

POINTS = "sparse_pc.ply"  # nerfstudio's name

_FORMAT = 1  # raised when what a stage makes of the same inputs changes
_QUALITY = 95  # of the scene's JPEGs


@dataclass(frozen=True)
class Settings:
    """What may be chosen.

    Attributes:
        max_frames: pictures to use at most; None: 200 of a video, all of a folder.
        max_size: longest side of the pictures, pixels; smaller ones stay as they are.
        matcher: of MATCHERS; None: sequential for a video, exhaustive for a folder.
        camera_model: of CAMERA_MODELS: what of a lens is estimated.
        seed: of all that is drawn.
        threads: that look for features and match them; the result is the same for any number.
    """

    max_frames: int | None = None
    max_size: int = 1600
    matcher: str | None = None
    camera_model: str = "SIMPLE_RADIAL"
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class _Found:
    """Models, the largest first; the database that they are of; the fingerprint of the stage that made them."""

    models: list[Any]
    database: Path
    made: str

    @property
    def registered(self) -> int:
        """Pictures in the largest model."""
        return self.models[0].num_reg_images() if self.models else 0


def capture(source: Path, out: Path, settings: Settings) -> Report:
    """Make a scene's folder `out` of a video or a folder of photographs, or go on where an earlier run stopped.

    It gets `images/`, `transforms.json` and `sparse_pc.ply` (nerfstudio's), `sparse/0` (COLMAP's), `report.json`, and
    `work/`, what the stages kept: a run with other settings begins where they first matter.

    Raises UserError: the source can't be read or has too few pictures, pycolmap is missing, nothing registers, or
    `out` is something else's or another process's.
    """
    pycolmap()
    if not source.exists():
        raise UserError(f"there is no {source}")
    if settings.max_frames is not None and settings.max_frames < FEWEST:
        raise UserError(f"--max-frames {settings.max_frames}: at least {FEWEST} are needed")
    opened = _photographs_of(source, settings) if source.is_dir() else video.open_video(source)
    _check_free(source, out)
    work = out / "work"
    with locked(work, "or name another folder with --out"):
        made = _take_pictures(opened, work, settings)
        taken = Pictures.read(work / "pictures")
        if len(taken.pictures) < FEWEST:
            what = "the camera hardly moves in it" if taken.moving else "of one size"
            raise UserError(
                f"{source} gives {len(taken.pictures)} pictures ({what}): at least {FEWEST} are needed"
            )
        found = _find_cameras(work, made, taken, settings)
        models = found.models
        if found.registered < FEWEST:
            raise UserError(
                f"no cameras were found for {source}: of {len(taken.pictures)} pictures "
                f"{found.registered} hang together, at least {FEWEST} must. Each picture "
                "has to show most of what another one shows, from another place, and texture"
            )
        pinholes = flatten.pinholes(models[0])
        report = judge(taken, found.database, models, pinholes[min(pinholes)])
        origin: dict[str, object] = {"fingerprint": found.made, **_of_version(), **asdict(settings)}
        del origin["threads"]  # which change nothing
        _write_scene(out, work / "pictures" / "images", models[0], pinholes, report, origin)
    return report


def _check_free(source: Path, out: Path) -> None:
    """Raise UserError where `out` is not new, empty or a capture's; nothing of the user's is ever replaced."""
    if source.is_dir() and source.resolve() == out.resolve():
        raise UserError(f"--out {out} is the folder of the photographs: name another one")
    try:
        inside = {path.name for path in out.iterdir()} if out.exists() else set()
    except OSError as error:
        raise cannot_write(out, error) from error
    if inside and not (out / "work" / ".lock").exists():
        raise UserError(
            f"--out {out} holds {min(inside)}, which no capture wrote: name a new or an empty folder"
        )


def _photographs_of(folder: Path, settings: Settings) -> list[Path]:
    """The photographs to use, evenly spread where there are more than asked for."""
    files = photographs.find(folder)
    if len(files) < FEWEST:
        raise UserError(
            f"{folder} holds {len(files)} photographs: at least {FEWEST} are needed{_hint(folder)}"
        )
    most = min(settings.max_frames or len(files), len(files))
    return [files[(2 * k + 1) * len(files) // (2 * most)] for k in range(most)]


def _take_pictures(source: list[Path] | video.Video, work: Path, settings: Settings) -> str:
    """The stage `pictures`, and for a video the one before it; returns the fingerprint."""
    if isinstance(source, list):
        return stage(
            work / "pictures",
            {"files": [identity(path) for path in source], "max_size": settings.max_size, **_of_version()},
            lambda folder: pictures.take_photographs(folder, source, settings.max_size),
        )
    most = settings.max_frames or MOST_FRAMES
    made = stage(
        work / "frames",
        {"video": identity(source.path), **_of_version()},
        lambda folder: _look_at_frames(source, folder),
    )
    held = json.loads((work / "frames" / "candidates.json").read_text(encoding="utf-8"))
    chosen = [c.index for c in frames.choose([frames.Candidate(*c) for c in held], most)]
    return stage(
        work / "pictures",
        {"frames": made, "max_frames": most, "max_size": settings.max_size},
        lambda folder: pictures.take_frames(folder, source, chosen, settings.max_size),
    )


def _find_cameras(work: Path, made: str, taken: Pictures, settings: Settings) -> _Found:
    """The stages from features to cameras, quickly, then thoroughly if too few register; the better result."""
    images, total = work / "pictures" / "images", len(taken.pictures)
    matcher = settings.matcher or ("sequential" if taken.moving else "exhaustive")
    pairs = database.pairs_of([p.name for p in taken.pictures], matcher)
    best: _Found | None = None
    for effort in EFFORTS:
        folder = work / effort.name
        features = stage(
            folder / "features",
            {"pictures": made, "camera_model": settings.camera_model, **asdict(effort), **_of_version()},
            lambda at, e=effort: database.extract(  # type: ignore[misc]
                at, taken, images, settings.camera_model, e, settings.threads
            ),
        )
        matches = stage(
            folder / "matches",
            {"features": features, "matcher": matcher, "seed": settings.seed},
            lambda at, e=effort: database.match(  # type: ignore[misc]
                at, at.parent / "features", pairs, e, settings.seed, settings.threads
            ),
        )
        path = folder / "matches" / database.DATABASE
        cameras = stage(
            folder / "cameras",
            {"matches": matches, "seed": settings.seed},
            lambda at, e=effort, p=path: mapping.map_pictures(  # type: ignore[misc]
                at, p, images, total, e, settings.seed
            ),
        )
        found = _Found(mapping.read_models(folder / "cameras"), path, cameras)
        if best is None or found.registered > best.registered:
            best = found
        if found.registered >= ENOUGH * total:
            break
        if effort is not EFFORTS[-1]:
            print(
                f"{found.registered} of {total} pictures hang together: once more, thoroughly",
                file=sys.stderr,
            )
    assert best is not None
    return best


def _look_at_frames(film: video.Video, folder: Path) -> None:
    """Measure a video's frames, and write what was found."""
    a_second = round(film.frames / film.seconds / _LOOKED_AT_A_SECOND) if film.seconds > 0 else 1
    every = max(1, a_second, -(-film.frames // _LOOKED_AT))
    images = video.read_every(film, every, pictures.SHARPNESS_SIZE)
    total = -(-film.frames // every)
    found = list(track(frames.measure(images), "looking at frames", total, "frame"))
    with atomic_write(folder / "candidates.json") as file:
        file.write_text(json.dumps([[c.index, c.sharpness, c.position] for c in found]), encoding="utf-8")


def _write_scene(
    out: Path, images: Path, model: Any, pinholes: dict[int, Any], report: Report, made: dict[str, object]
) -> None:
    """Write the scene's files; `report.json` is the last, and says that the others are whole."""
    if _written(out) == made:
        return
    for name in ("report.json", "transforms.json"):
        (out / name).unlink(missing_ok=True)
    flat = flatten.flat_model(model, pinholes)
    grids = {
        number: flatten.source_grid(camera, pinholes[number]) for number, camera in model.cameras.items()
    }

    def pictures_in(folder: Path) -> None:
        registered = [image for image in flat.images.values() if image.has_pose]
        for image in track(registered, "undoing distortion", unit="picture"):
            picture = flatten.flat_picture(images / image.name, grids[image.camera_id])
            image.name = f"{Path(image.name).stem}.jpg"
            picture.save(folder / image.name, quality=_QUALITY, subsampling=0)

    _replace(out / "images", pictures_in)
    _replace(out / "sparse" / "0", flat.write_binary)
    with atomic_write(out / POINTS) as file:
        flat.export_PLY(file)
    for name, value in (
        ("transforms.json", transforms.transforms(flat, "images", POINTS)),
        ("report.json", {**report.to_json(), "made": made}),
    ):
        with atomic_write(out / name) as file:
            file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _written(out: Path) -> object:
    """What the scene in `out` was made of, None where it is not whole."""
    try:
        return json.loads((out / "report.json").read_text(encoding="utf-8")).get("made")
    except (OSError, ValueError, AttributeError):
        return None


def _replace(folder: Path, fill: Callable[[Path], None]) -> None:
    """Have a folder, filled anew, where an earlier capture's may be."""
    with atomic_write(folder) as made:
        made.mkdir()
        fill(made)
        if folder.exists():
            shutil.rmtree(folder)


def _of_version() -> dict[str, object]:
    return {"format": _FORMAT, "pycolmap": pycolmap().__version__}


def _hint(folder: Path) -> str:
    """Where in a folder without photographs they may be meant to be, in a few words."""
    films = sorted(p for p in folder.iterdir() if p.suffix.lower() in video.SUFFIXES)
    if films:
        return f"; did you mean the video {films[0]}?"
    below = sorted(p for p in folder.iterdir() if p.is_dir() and len(photographs.find(p)) >= FEWEST)
    return f"; did you mean {below[0]}?" if below else ""
