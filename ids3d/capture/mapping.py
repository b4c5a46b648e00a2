"""Cameras and sparse points from matched pictures: COLMAP's incremental mapping."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ids3d.capture.colmap import pycolmap
from ids3d.capture.effort import Effort
from ids3d.progress import Progress

MODELS = "models"


def map_pictures(folder: Path, database: Path, images: Path, total: int, effort: Effort, seed: int) -> None:
    """Write the models found, `models/<number>/` in COLMAP's binary format, into the folder.

    In one thread: several would add up the bundle adjustment's sums in an order of chance.

    Args:
        total: how many pictures there are.
    """
    colmap = pycolmap()
    shutil.rmtree(folder / MODELS, ignore_errors=True)
    (folder / MODELS).mkdir()
    options = colmap.IncrementalPipelineOptions(
        num_threads=1,
        random_seed=seed,
        min_model_size=3,
        max_model_overlap=total,  # a model grows as far as it can, also where an earlier one was
    )
    options.mapper.init_min_num_inliers = effort.init_inliers
    options.mapper.init_min_tri_angle = effort.init_angle
    options.mapper.abs_pose_min_num_inliers = effort.pose_inliers
    progress = _Placed(total)
    colmap.incremental_mapping(
        database,
        images,
        folder / MODELS,
        options=options,
        initial_image_pair_callback=progress.first_two,
        next_image_callback=progress.one_more,
    )
    progress.close()


def read_models(folder: Path) -> list[Any]:
    """The models that `map_pictures` found, pycolmap Reconstructions, the one with most pictures first."""
    colmap = pycolmap()
    models = [colmap.Reconstruction(path) for path in sorted((folder / MODELS).iterdir()) if path.is_dir()]
    return sorted(models, key=lambda m: (m.num_reg_images(), m.num_points3D()), reverse=True)


class _Placed:
    """Counts registered pictures; those of a model that was given up are counted again, up to the total."""

    def __init__(self, total: int) -> None:
        self._progress, self._left = Progress("finding cameras", total, unit="picture"), total

    def first_two(self) -> None:
        self.one_more()
        self.one_more()

    def one_more(self) -> None:
        if self._left > 0:
            self._left -= 1
            self._progress.advance()

    def close(self) -> None:
        self._progress.close()
