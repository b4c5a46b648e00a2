"""What became of a capture: what registered, how well, and what to film again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ids3d.capture.colmap import pycolmap
from ids3d.capture.pictures import Picture, Pictures, listed

BLURRED = 0.5  # of the median sharpness: less is blur, or out of focus
FEW_FEATURES = 200
FEW_MATCHES = 30  # verified with any one picture: below, it can hardly be placed
WEAK = 0.15  # of the median: points that a picture shares with the one it shares most with


@dataclass(frozen=True)
class Missing:
    """A picture that was not registered, and why."""

    source: str
    why: str


@dataclass(frozen=True)
class Report:
    """The outcome of a capture.

    Attributes:
        pictures: all of them, in their order: file names, or times in the video.
        registered: how many of them have a camera.
        points: sparse points.
        error: mean distance of an image point from its point's projection, in pixels of the pictures looked at.
        width, height, field_of_view: of the scene's pictures; the angle is horizontal, in degrees, of the first.
        cameras: how many lenses there were.
        other_models: pictures in each model that does not hang together with the one taken.
        missing: pictures that were not registered.
        blurred, weak: registered pictures that are blurred, or held by few points.
        notes: what was done to the pictures.
    """

    pictures: list[str]
    registered: int
    points: int
    error: float
    width: int
    height: int
    field_of_view: float
    cameras: int
    other_models: list[int]
    missing: list[Missing]
    blurred: list[str]
    weak: list[str]
    notes: list[str]

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The report for a console, less than a screen."""
        share = 100 * self.registered / len(self.pictures)
        lenses = "one camera" if self.cameras == 1 else f"{self.cameras} cameras"
        said = [
            f"registered: {self.registered} of {len(self.pictures)} pictures ({share:.0f} %), {self.points:,} points, "
            f"mean reprojection error {self.error:.2f} pixels",
            f"pictures: {self.width}x{self.height}, without distortion, {self.field_of_view:.0f} degrees wide, "
            f"of {lenses}",
        ]
        said += [f"  {note}" for note in self.notes]
        reasons = dict.fromkeys(m.why for m in self.missing)
        for why in reasons:
            said.append(
                f"not registered, {why}: {self._ranges([m.source for m in self.missing if m.why == why])}"
            )
        if self.other_models:
            said.append(f"left out: models of {listed([str(n) for n in self.other_models], 6)} pictures")
        if self.blurred:
            said.append(f"blurred, but registered: {self._ranges(self.blurred)}")
        if self.weak:
            said.append(f"overlap little with the rest: {self._ranges(self.weak)}")
        said += [f"film again: {advice}" for advice in self._advice(list(reasons))]
        said.append("scale: not known from pictures; lengths are in a unit of the scene's own")
        return said

    def _ranges(self, some: Sequence[str]) -> str:
        """Pictures in a line, those that follow each other as "first to last"."""
        wanted = set(some)
        runs = itertools.groupby(self.pictures, lambda source: source in wanted)
        ends = [list(run) for inside, run in runs if inside]
        return listed([run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in ends], 6)

    def _advice(self, reasons: list[str]) -> list[str]:
        advice = []
        if self.blurred or "blurred" in reasons:
            advice.append("move more slowly, in more light, with the focus held")
        if self.weak or any(why not in ("blurred", PLAIN) for why in reasons):
            advice.append("those places again, with each picture showing most of the one before")
        if PLAIN in reasons:
            advice.append("with something of texture in view: plain walls and dark rooms hold no features")
        return advice or ["nothing"]


PLAIN = "little to hold on to (plain, dark or out of focus)"


def judge(pictures: Pictures, database: Path, models: Sequence[Any], pinhole: Any) -> Report:
    """Make the report.

    Args:
        database: COLMAP's, with features and verified matches.
        models: pycolmap Reconstructions, the first is the one taken.
        pinhole: the first pinhole camera of the scene.
    """
    model = models[0]
    registered = {image.name for image in model.images.values() if image.has_pose}
    elsewhere = {
        image.name: other.num_reg_images()
        for other in models[1:]
        for image in other.images.values()
        if image.has_pose
    }
    features, matches = _counts(database)
    median = float(np.median([p.sharpness for p in pictures.pictures]))

    def blurred(picture: Picture) -> bool:
        return picture.sharpness < BLURRED * median

    def why(picture: Picture) -> str:
        if blurred(picture):
            return "blurred"
        if features[picture.name] < FEW_FEATURES:
            return PLAIN
        if picture.name in elsewhere:
            return "in another model"
        if matches[picture.name] < FEW_MATCHES:
            return "nothing in common with the others"
        return "too few points in common with the rest"

    shared = _shared_points(model)
    usual = float(np.median(list(shared.values())))
    kept = [p for p in pictures.pictures if p.name in registered]
    return Report(
        pictures=[p.source for p in pictures.pictures],
        registered=len(kept),
        points=model.num_points3D(),
        error=float(model.compute_mean_reprojection_error()),
        width=pinhole.width,
        height=pinhole.height,
        field_of_view=math.degrees(2 * math.atan(pinhole.width / (2 * pinhole.focal_length_x))),
        cameras=model.num_cameras(),
        other_models=[other.num_reg_images() for other in models[1:]],
        missing=[Missing(p.source, why(p)) for p in pictures.pictures if p.name not in registered],
        blurred=[p.source for p in kept if blurred(p)],
        weak=[p.source for p in kept if shared[p.name] < WEAK * usual],
        notes=list(pictures.notes),
    )


def _counts(database: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Of each picture, how many features it has, and how many verified matches with the picture it has most with."""
    colmap = pycolmap()
    with colmap.Database.open(database) as opened:
        names = {image.image_id: image.name for image in opened.read_all_images()}
        features = {name: opened.num_keypoints_for_image(number) for number, name in names.items()}
        pairs, inliers = opened.read_two_view_geometry_num_inliers()
    most = dict.fromkeys(names.values(), 0)
    for pair, count in zip(pairs, inliers, strict=True):
        for number in colmap.pair_id_to_image_pair(pair):
            most[names[number]] = max(most[names[number]], count)
    return features, most


def _shared_points(model: Any) -> dict[str, int]:
    """Of each registered picture, how many points it shares with the picture that it shares most with."""
    images = [image for image in model.images.values() if image.has_pose]
    row = {image.image_id: k for k, image in enumerate(images)}
    shared = np.zeros((len(images), len(images)), dtype=np.int64)
    for point in model.points3D.values():
        seen = sorted({row[element.image_id] for element in point.track.elements})
        shared[np.ix_(seen, seen)] += 1
    np.fill_diagonal(shared, 0)
    return {image.name: int(most) for image, most in zip(images, shared.max(axis=1), strict=True)}
