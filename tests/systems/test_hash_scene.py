"""The whole job over a hash grid: reconstructed, edited, evaluated, read again and exported as any other field."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh
from safetensors.torch import load_file

from ids3d.images import to_bytes
from ids3d.launch import main
from ids3d.systems.saved_run import load_run
from tests import tiny_sd
from tests.systems.conftest import CONFIG

FIELD = (
    "geometry=hash geometry.log2_size=11 geometry.finest=32 renderer.steps=64 renderer.occupancy_cells=4096"
)
RUN = "tracking=csv tag=t reconstruct.steps=100 reconstruct.rays_per_step=256 prior=stable-diffusion"
EDIT = "edit.rounds=1 edit.steps=2 edit.fit_steps=2 edit.appearance_only=true"
EVALUATE = "evaluate.film_frames=0 evaluate.clip=null"


@pytest.fixture(scope="module")
def run(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out")
    where = [f"data.root={scene_folder}", f"prior.path={tiny_sd.folder('epsilon')}", f"output={output}"]
    main(["--config", str(CONFIG), *f"{FIELD} {RUN} {EDIT} {EVALUATE}".split(), *where])
    return output / "ids-llff" / "t"


def test_it_is_fitted_and_its_appearance_edited(run: Path) -> None:
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["reconstruction/psnr"] > 18  # a mean colour reaches 10
    (source,) = (run.parents[1] / "reconstructions").glob("*/field.safetensors")
    before, after = load_file(source), load_file(run / "checkpoints" / "last.safetensors")
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert {"look", "colour_network"} <= changed and not {"where", "density_network"} & changed


def test_it_is_read_again_as_it_was(run: Path) -> None:
    saved = load_run(run)
    camera = saved.scene.test.cameras[0]
    shown = min((run / "renders").glob("*_edited.png"))
    np.testing.assert_array_equal(iio.imread(shown), to_bytes(saved.edited.renderer.render(camera).rgb))


def test_it_is_exported(run: Path) -> None:
    main(["--export", str(run), "points"])
    (file,) = (run / "exports").rglob("*.ply")
    cloud = trimesh.load(file)
    red, _, blue = cloud.colors[:, :3].astype(float).T
    assert len(cloud.vertices) > 100 and (red > blue + 50).any()  # of the red ball
