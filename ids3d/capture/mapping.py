"""Cameras and sparse points from matched pictures: COLMAP's incremental mapping."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ids3d.capture.colmap import pycolmap
from ids3d.progress import Progress

MODELS = "models"

# Each way of beginning and going on, tried in turn until ENOUGH of the pictures are registered: COLMAP's, then one
# for captures with little texture or few pixels, which takes pictures that fewer points hold.
WAYS: tuple[dict[str, float], ...] = (
    {},
    {"init_min_num_inliers": 50, "init_min_tri_angle": 8.0, "abs_pose_min_num_inliers": 15},
)
ENOUGH = 0.9


def map_pictures(folder: Path, database: Path, images: Path, total: int, seed: int) -> None:
    """Write the models found, `models/<way>/<number>/` in COLMAP's binary format, into the folder.

    In one thread: several would add up the bundle adjustment's sums in an order of chance.

    Args:
        total: how many pictures there are.
    """
    colmap = pycolmap()
    shutil.rmtree(folder / MODELS, ignore_errors=True)
    for number, way in enumerate(WAYS):
        options = colmap.IncrementalPipelineOptions(
            num_threads=1, random_seed=seed, min_model_size=3, extract_colors=True
        )
        for name, value in way.items():
            setattr(options.mapper, name, value)
        place = folder / MODELS / str(number)
        place.mkdir(parents=True)
        progress = _Placed("finding cameras" if number == 0 else "finding cameras again", total)
        found = colmap.incremental_mapping(
            database,
            images,
            place,
            options=options,
            initial_image_pair_callback=progress.first_two,
            next_image_callback=progress.one_more,
        )
        progress.close()
        if max((model.num_reg_images() for model in found.values()), default=0) >= ENOUGH * total:
            return


def read_models(folder: Path) -> list[Any]:
    """The models of the way that registered most pictures in one of them, the largest first."""
    colmap = pycolmap()
    best: list[Any] = []
    for place in sorted((folder / MODELS).iterdir()):
        models = [colmap.Reconstruction(path) for path in sorted(place.iterdir()) if path.is_dir()]
        models.sort(key=lambda m: (m.num_reg_images(), m.num_points3D()), reverse=True)
        if models and (not best or models[0].num_reg_images() > best[0].num_reg_images()):
            best = models
    return best


class _Placed:
    """Counts registered pictures; those of a model that was given up are counted again, up to the total."""

    def __init__(self, label: str, total: int) -> None:
        self._progress, self._left = Progress(label, total, unit="picture"), total

    def first_two(self) -> None:
        self.one_more()
        self.one_more()

    def one_more(self) -> None:
        if self._left > 0:
            self._left -= 1
            self._progress.advance()

    def close(self) -> None:
        self._progress.close()
