"""Where an edit may act: masks from files, the region that is found by itself, and that nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ids3d.errors import UserError
from ids3d.experiment import SceneJob
from ids3d.models.priors.protocol import Prompt
from ids3d.models.renderers.protocol import Renderer
from ids3d.scene import Scene
from ids3d.systems.edit_scene.editing import EditingSystem
from ids3d.systems.edit_scene.protocol import SceneEdit
from ids3d.systems.edit_scene.region import region_of_difference, region_of_masks
from ids3d.systems.scene_edit_phases import SceneEditRun
from ids3d.systems.stopping import GracefulStop
from tests import tiny_sd
from tests.systems.test_edit_pictures import Constant, train
from tests.toys.toy_prior import OneColour

Tiny = Callable[..., SceneJob]


@pytest.fixture
def scene(tiny: Tiny) -> Scene:
    return tiny().data.build().load()


def write_masks(folder: Path, scene: Scene, mask: Tensor) -> str:
    """One mask (h, w) for all training views; the folder's path."""
    folder.mkdir(exist_ok=True)
    for name in scene.train.names:
        Image.fromarray((mask * 255).byte().numpy()).save(folder / f"{name}.png")
    return str(folder)


def patch(size: int = 24) -> Tensor:
    """White in a square that begins and ends at whole latent pixels, of 3 pixels each."""
    mask = torch.zeros(size, size)
    mask[6 * size // 24 : 12 * size // 24, 12 * size // 24 : 18 * size // 24] = 1
    return mask


def test_masks_weigh_latents_and_pixels(scene: Scene, tmp_path: Path) -> None:
    for size in (24, 48):  # as large as the views, and larger
        region = region_of_masks(write_masks(tmp_path / f"{size}", scene, patch(size)), scene, (8, 8))
        expected = torch.zeros(8, 8)
        expected[2:4, 4:6] = 1
        assert torch.equal(region.latents, expected.expand(len(scene.train), 1, 8, 8))
        assert region.images.shape == (len(scene.train), 24, 24)
        image, white = region.images[3], patch()
        assert (image[white > 0] == 1).all()
        apart = (
            torch.nn.functional.max_pool2d(white[None], 5, stride=1, padding=2)[0] == 0
        )  # by over 2 pixels
        assert (image[apart] == 0).all()
        assert ((image[8, [10, 11, 18, 19]] > 0) == torch.tensor([False, True, True, False])).all()  # soft


def test_a_part_of_a_latent_pixel_is_enough(scene: Scene, tmp_path: Path) -> None:
    mask = torch.zeros(24, 24)
    mask[4, 4] = 1
    region = region_of_masks(write_masks(tmp_path / "masks", scene, mask), scene, (8, 8))
    assert region.latents.sum() == len(scene.train) and (region.latents[:, 0, 1, 1] == 1).all()


def test_what_is_wrong_with_masks_is_one_line(scene: Scene, tmp_path: Path) -> None:
    def said(folder: str) -> str:
        with pytest.raises(UserError) as caught:
            region_of_masks(folder, scene, (8, 8))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such folder; expected everywhere, difference or a folder" in said(str(tmp_path / "nowhere"))
    assert "no such folder" in said("diference")
    folder = Path(write_masks(tmp_path / "masks", scene, torch.zeros(24, 24)))
    assert "black everywhere" in said(str(folder))
    first = folder / f"{scene.train.names[0]}.png"
    Image.new("L", (24, 12), 255).save(first)
    assert f"{first} has 24x12 pixels" in said(str(folder))
    first.write_bytes(first.read_bytes()[:40])
    assert str(first) in said(str(folder))
    first.unlink()
    assert f"no mask for the training view {scene.train.names[0]}" in said(str(folder))


def test_wrong_masks_are_found_before_anything_is_trained(tiny: Tiny) -> None:
    with GracefulStop() as stop:
        work = SceneEditRun(tiny("edit.region=nowhere"), stop)
        with pytest.raises(UserError, match=r"edit\.region nowhere: no such folder"):
            work.prepare()


class DiffersIn(OneColour):
    """A prior whose predictions for two prompts differ in two columns of the latent, and a little everywhere."""

    def predict_noise(self, z_t: Tensor, t: Tensor, prompt: Prompt, guidance_scale: float) -> Tensor:
        assert guidance_scale == 1 and len(z_t) == len(t) == len(prompt)
        noise = 0.1 * z_t + 0.2 * prompt.cond[:, 0, :, None, None]
        where = torch.zeros_like(noise)
        where[..., 3:5] = 1
        return noise + where * prompt.cond[:, 0, :, None, None] * t[:, None, None, None] / 50


def test_a_region_is_found_where_the_prompts_make_a_difference() -> None:
    prior = DiffersIn(OneColour.Config(image_size=16))
    z = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    red, blue = prior.embed(["red"]), prior.embed(["blue"])
    region = region_of_difference(prior, z, (red, blue), (16, 16), seed=0)
    expected = torch.zeros(8)
    expected[2:6] = 1  # one more on each side
    assert torch.equal(region.latents, expected.expand(3, 1, 8, 8))
    row = region.images[1, 7]
    assert (row[4:12] >= 0.5).all() and (row[5:11] == 1).all() and (row[[0, 1, 2, 13, 14, 15]] == 0).all()
    same = region_of_difference(prior, z, (red, red), (16, 16), seed=0)
    assert (same.latents == 1).all() and (same.images == 1).all(), "no difference: everywhere"


def edited(
    tiny: Tiny, folder: Path, prior: Any, method: Any, *overrides: str
) -> tuple[EditingSystem, Renderer]:
    """A system that has edited a tiny scene, and the unedited field's renderer."""
    job = tiny("reconstruct.steps=60", *overrides)
    with GracefulStop() as stop:
        work = SceneEditRun(job, stop)
        source = work.reconstruct().renderer
        edit = SceneEdit(work.scene, source, prior, method, ("a red cube", "a blue cube"), seed=0)
        system = job.edit.build(copy.deepcopy(source), edit)
    train(system, folder)
    assert isinstance(system, EditingSystem)
    return system, source


PICTURES = ["edit=pictures", "edit.rounds=1", "edit.steps=2", "edit.fit_steps=15"]
PULL_BACK = ["edit=pull-back", "edit.steps=6"]


@pytest.mark.parametrize("way", [PICTURES, PULL_BACK], ids=["pictures", "pull-back"])
def test_the_field_stays_to_the_bit_where_no_ray_of_the_region_passes(
    tiny: Tiny, scene: Scene, tmp_path: Path, way: list[str]
) -> None:
    folder = write_masks(tmp_path / "masks", scene, patch())
    settings = [*way, f"edit.region={folder}", "edit.appearance_only=true"]
    guidance = Constant(torch.tensor([3.0, -2.0, 1.0, 2.0]))
    system, source = edited(tiny, tmp_path, tiny_sd.prior(), guidance, *settings)
    region = system.region
    assert region is not None and 0.05 < (region.images > 0).float().mean() < 0.5

    # What rays of the region see, by its gradient, at the sizes of photographs and of editing.
    before = list(source.parameter_groups().appearance)
    after = list(system.renderer.parameter_groups().appearance)
    for size in ((24, 24), system.size):
        cameras = system.scene.train.cameras.resized(*size)
        shown = torch.nn.functional.interpolate(region.images[:, None], size, mode="bilinear")[:, 0] > 0
        if size == (24, 24):
            shown = region.images > 0
        view, row, col = shown.nonzero(as_tuple=True)
        source(cameras.rays_at(view, row, col)).rgb.sum().backward()
    changed = 0
    for old, new in zip(before, after, strict=True):
        assert old.grad is not None
        untouched = old.grad == 0
        assert torch.equal(old[untouched], new[untouched]) and untouched.float().mean() > 0.2
        changed += int((old != new).sum())
    assert changed > 100, "and inside it changes"


def test_samplers_and_latents_stay_outside_of_the_region(tiny: Tiny, scene: Scene, tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "masks", scene, patch())
    prior = tiny_sd.prior()
    sampler = tiny(*PICTURES, "guidance=sdedit", "guidance.steps=2").guidance.build(prior)
    for method in (Constant(torch.ones(4)), sampler):
        system, _ = edited(tiny, tmp_path, prior, method, *PICTURES, f"edit.region={folder}")
        assert system.region is not None
        inside = system.region.latents[:, 0] > 0
        change = (system.latents - system._sources(range(len(scene.train)))).abs().amax(1)
        assert (change[~inside] == 0).all() and (change[inside] > 0).float().mean() > 0.9


def test_other_masks_under_the_same_name_are_another_edit(tiny: Tiny, scene: Scene, tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "masks", scene, patch())
    job = tiny(*PULL_BACK, f"edit.region={folder}")
    with GracefulStop() as stop:
        key = SceneEditRun(job, stop).edit_key()
        assert SceneEditRun(job, stop).edit_key() == key
        last = Path(folder) / f"{scene.train.names[-1]}.png"
        was = last.read_bytes()
        Image.new("L", (24, 24), 255).save(last)
        assert SceneEditRun(job, stop).edit_key() != key
        last.write_bytes(was)
        assert SceneEditRun(job, stop).edit_key() == key
        last.unlink()
        with pytest.raises(UserError, match="no mask for the training view"):
            SceneEditRun(job, stop).edit_key()
