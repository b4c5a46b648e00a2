"""A tiny experiment: 10 views of 24x24 pixels, a field of 8,000 voxels, a random prior of 16x16 images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from ids3d.experiment import SceneJob, load
from tests import tiny_sd
from tests.systems import tiny_scene

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "ids-llff.yaml"


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scene.write(tmp_path_factory.mktemp("scene") / "ball")


@pytest.fixture(scope="session")
def tiny_in(scene_folder: Path) -> Callable[..., SceneJob]:
    """tiny_in(output, "edit.steps=3", ...): the experiment, with its results in the folder `output`."""

    def make(output: Path, *overrides: str) -> SceneJob:
        settings = [
            "tracking=none",
            "tag=t",
            "geometry.voxels=8000",
            "renderer.steps=64",
            "renderer.occupancy_cells=4096",
            "reconstruct.steps=12",
            "reconstruct.rays_per_step=256",
            "reconstruct.validate_every=0",
            "reconstruct.log_every=1",
            "edit.validate_every=0",
            "edit.log_every=1",
            "evaluate.film_frames=0",
            "evaluate.clip=null",
            "prior=stable-diffusion",
        ]
        if not any(word.startswith("edit=") for word in overrides):
            settings += ["edit=pull-back", "edit.steps=4"]
        where = [
            f"output={output}",
            f"data.root={scene_folder}",
            f"prior.path={tiny_sd.folder('epsilon')}",
        ]
        return load([CONFIG], [*settings, *where, *overrides])

    return make


@pytest.fixture
def tiny(tiny_in: Callable[..., SceneJob], tmp_path: Path) -> Callable[..., SceneJob]:
    """tiny("edit.steps=3", ...): each test has an output folder of its own."""
    return functools.partial(tiny_in, tmp_path / "out")
