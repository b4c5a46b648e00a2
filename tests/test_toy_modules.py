"""A module of one's own is one file outside the project, named by its import path, with nothing changed in ids3d."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ids3d.launch import main
from tests import tiny_sd
from tests.systems import tiny_scene

ROOT = Path(__file__).parent.parent
# What the main job names under each key in place of its own, and the settings that suit it.
TOYS = {
    "data": ["data=toy_scene:RedBall"],
    "prior": ["prior=toy_prior:OneColour"],
    "geometry": ["geometry=toy_geometry:Blobs", "geometry.blobs=12", "reconstruct.lr_density=0.02"],
    "guidance": ["guidance=toy_guidance:PosteriorMean", "guidance.guidance_scale=2"],
    "edit": ["edit=toy_edit:ThroughImages", "edit.steps=3"],
}


@pytest.fixture(scope="module", autouse=True)
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The toys, each a file in a folder that is on the Python path."""
    folder = tmp_path_factory.mktemp("toys")
    for file in (ROOT / "tests" / "toys").glob("toy_*.py"):
        shutil.copy(file, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    for name in [name for name in sys.modules if name.startswith("toy_")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[str]]:
    """What stands under each key where it is no toy: the project's own, at tiny sizes."""
    scene = tiny_scene.write(tmp_path_factory.mktemp("scene") / "ball")
    return {
        "data": [f"data.root={scene}"],
        "prior": ["prior=stable-diffusion", f"prior.path={tiny_sd.folder('epsilon')}"],
        "geometry": ["geometry.voxels=4096"],
        "guidance": [],
        "edit": ["edit.rounds=1", "edit.steps=2", "edit.fit_steps=2", "edit.validate_every=2"],
    }


@pytest.mark.parametrize("keys", [*((key,) for key in TOYS), tuple(TOYS)], ids="+".join)
def test_the_main_job_runs_with_it(
    keys: tuple[str, ...], own: Mapping[str, list[str]], tmp_path: Path
) -> None:
    chosen = [word for key in own for word in (TOYS[key] if key in keys else own[key])]
    small = "tracking=csv tag=t renderer.steps=64 renderer.occupancy_cells=4096 reconstruct.steps=15"
    short = "reconstruct.rays_per_step=256 evaluate.film_frames=2 evaluate.film_size=16 evaluate.clip=null"
    words = [*small.split(), *short.split(), *chosen, f"output={tmp_path}"]
    main(["--config", str(ROOT / "configs" / "ids-llff.yaml"), *words])

    folder = tmp_path / "ids-llff" / "t"
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["reconstruction/psnr"] > 8 and figures["source/psnr"] > 8
    assert (folder / "video.mp4").is_file() and list((folder / "renders").glob("*_edited.png"))
    if "edit" in keys:
        assert "edit/brightness" in (folder / "metrics.csv").read_text()
    if "guidance" in keys:
        assert figures["guidance"] == "toy_guidance:PosteriorMean"
    assert changed(tmp_path), "the edit left the field as it was"
    if len(keys) == len(TOYS):  # a red ball, and a prior that knows what blue is
        source, edited = (blueness(folder / "renders", image) for image in ("source", "edited"))
        assert edited > source


def blueness(renders: Path, image: str) -> float:
    """The mean of blue over the held-out views' images of that name, in [0, 255]."""
    return float(np.mean([np.asarray(Image.open(file))[..., 2] for file in renders.glob(f"*_{image}.png")]))


def changed(output: Path) -> bool:
    """Whether the edited field differs from the reconstructed one."""
    (source,) = (output / "reconstructions").glob("*/field.safetensors")
    before = load_file(source)
    after = load_file(output / "ids-llff" / "t" / "checkpoints" / "last.safetensors")
    assert before.keys() == after.keys()
    return any(not torch.equal(value, after[name]) for name, value in before.items())
