"""Editing a scene through its views' images, with a guidance and a prior whose outcome is known."""

from __future__ import annotations

import copy
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
import torch
from torch import Tensor

from ids3d.bench.scene_sources import tabletop_sources
from ids3d.config import find_config
from ids3d.data.step_batches import StepDataModule
from ids3d.errors import UserError
from ids3d.experiment import SceneJob, load
from ids3d.metrics import psnr
from ids3d.models.guidance.protocol import GuidanceOutput
from ids3d.models.renderers.protocol import Renderer
from ids3d.models.samplers.protocol import Sampler
from ids3d.seeding import generator_for
from ids3d.systems.edit_scene import pictures, targets
from ids3d.systems.edit_scene.pictures import EditThroughPictures
from ids3d.systems.edit_scene.protocol import SceneEdit
from ids3d.systems.edit_scene.rounds import FitStep, GuidanceStep
from ids3d.systems.edit_scene.targets import EditedImages
from ids3d.systems.fitting import fit
from ids3d.systems.random_background import before_random_background
from ids3d.systems.resuming import ResumeCheckpoint
from ids3d.systems.scene_edit_phases import SceneEditRun
from ids3d.systems.scene_run import run
from ids3d.systems.stopping import GracefulStop
from tests import tiny_sd
from tests.systems.test_run import same, state
from tests.systems.test_run_life import stopped
from tests.toys.toy_prior import OneColour

Tiny = Callable[..., SceneJob]
PICTURES = ["edit=pictures", "edit.source=render", "edit.validate_every=0", "edit.log_every=1"]
SHORT = [*PICTURES, "edit.rounds=2", "edit.steps=4", "edit.fit_steps=3", "edit.views_per_batch=4"]


@dataclass
class Constant:
    """A guidance that always wants the latents to fall by the same amount in each channel."""

    grad: Tensor

    def __call__(self, z_src: Tensor, z_trg: Tensor, *_: Any, progress: float) -> GuidanceOutput:
        self.progress = progress
        return GuidanceOutput(self.grad[None, :, None, None].expand_as(z_trg).clone(), {})


def make(tiny: Tiny, prior: Any, method: Any, *overrides: str) -> tuple[EditThroughPictures, Renderer]:
    """The system, and the renderer of the unedited field: of a tiny scene, reconstructed a little."""
    job = tiny("reconstruct.steps=60", *PICTURES, *overrides)
    with GracefulStop() as stop:
        work = SceneEditRun(job, stop)
        source = work.reconstruct().renderer
        edited = copy.deepcopy(source)
        edit = SceneEdit(work.scene, source, prior, method, ("a red cube", "a blue cube"), seed=0)
        return EditThroughPictures(job.edit.settings(), edited, edit), source


def train(system: EditThroughPictures, folder: Path) -> None:
    with GracefulStop() as stop:
        fit(
            system,
            StepDataModule(system.batch_of_step, held_out=1),
            system.steps(),
            label="test",
            device=torch.device("cpu"),
            resume=ResumeCheckpoint(stop, folder / "interrupted.ckpt", "key", ""),
        )


def test_each_round_edits_every_view_and_then_fits(tiny: Tiny) -> None:
    settings = ["edit.rounds=2", "edit.steps=5", "edit.fit_steps=5", "edit.views_per_batch=3"]
    system, _ = make(tiny, tiny_sd.prior(), Constant(torch.zeros(4)), *settings)
    n = len(system.scene.train)
    assert n % 3, "batches of different sizes"
    steps = [system.batch_of_step(i) for i in range(system.steps())]
    half = len(steps) // 2
    for number, part in enumerate((steps[:half], steps[half:])):
        guided = [step for step in part if isinstance(step, GuidanceStep)]
        seen = sorted((view, step.number) for step in guided for view in step.views)
        assert seen == [(view, k) for view in range(n) for k in range(3)]
        assert part[len(guided) :] == [FitStep(number, k) for k in range(5)]
        assert all(step.round == number for step in part)


def test_views_are_edited_as_images_are(tiny: Tiny, tmp_path: Path) -> None:
    """The latents after a round: the published loop in 2D, on each view alone, with that view's own draws."""
    prior = tiny_sd.prior()
    job = tiny(*PICTURES, "guidance=dds", "edit.rounds=1", "edit.steps=3", "edit.fit_steps=1", "edit.lr=0.3")
    guidance = job.guidance.build(prior)
    settings = [
        "edit.rounds=1",
        "edit.steps=3",
        "edit.fit_steps=1",
        "edit.lr=0.3",
        "edit.views_per_batch=4",
    ]
    system, source = make(tiny, prior, guidance, *settings)
    train(system, tmp_path)
    prompts = prior.embed(["a red cube"]), prior.embed(["a blue cube"])
    for view in (0, 5):
        camera = system.scene.train.cameras[view].resized(16, 16)
        with torch.no_grad():
            z_src = prior.encode(source.render(camera).rgb.permute(2, 0, 1)[None])
        z = z_src
        for k in range(3):
            z = z - 0.3 * guidance(z_src, z, *prompts, generator_for(0, f"guidance/{view}", k), k / 3).grad
        torch.testing.assert_close(system.latents[view], z[0], rtol=1e-3, atol=1e-4)
        assert (z - z_src).abs().max() > 0.05


@pytest.mark.parametrize("source", ["render", "photo"])
def test_the_field_becomes_what_the_images_became(tiny: Tiny, tmp_path: Path, source: str) -> None:
    """A prior whose decoder is known, and a guidance that lowers red by 0.1 and leaves the rest."""
    # The latent is the image in [-1, 1]: 4 steps of 0.05 lower it by 0.2, and so red by 0.1.
    change = torch.tensor([-0.1, 0.0, 0.0])
    system, before = make(
        tiny,
        OneColour(OneColour.Config(image_size=16)),
        Constant(torch.tensor([1.0, 0.0, 0.0])),
        f"edit.source={source}",
        *("edit.rounds=1", "edit.steps=4", "edit.fit_steps=150", "edit.lr=0.05"),
        *("data.space=box", "data.random_background=false", "reconstruct.steps=200"),
    )
    train(system, tmp_path)
    camera = system.scene.test.cameras[0]
    was = before.render(camera).rgb if source == "render" else system.scene.test.images[0]
    bright = was[..., 0] > 0.3  # elsewhere red cannot fall so far
    moved = (system.renderer.render(camera).rgb - was)[bright].mean(0)
    torch.testing.assert_close(moved, change, rtol=0, atol=0.03)


def test_targets_are_relative_to_the_source_in_each_round(tiny: Tiny, tmp_path: Path) -> None:
    """A guidance that wants nothing changes nothing, however lossy encoder and decoder are, in three rounds."""
    settings = ["edit.rounds=3", "edit.steps=3", "edit.fit_steps=20", "edit.lr_appearance=0.01"]
    system, before = make(
        tiny, tiny_sd.prior(), Constant(torch.zeros(4)), *settings, "edit.appearance_only=true"
    )
    train(system, tmp_path)
    camera = system.scene.test.cameras[0]
    assert (system.renderer.render(camera).rgb - before.render(camera).rgb).abs().max() < 0.02


def test_a_coarse_priors_change_is_carried_to_the_photographs_edges(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is changed ends a latent pixel before the red part of the photographs does, or after."""
    prior = OneColour(OneColour.Config(image_size=16))
    system, _ = make(tiny, prior, Constant(torch.zeros(3)), "edit.source=photo")
    images = system.scene.train.images
    images[:] = 0.5
    edge = images.shape[2] // 2
    images[:, :, :edge] = torch.tensor([0.9, 0.1, 0.1])
    views = range(len(images))
    sources = system._sources(views)
    cells = sources.shape[-1] // 2
    for ends in (cells - 1, cells + 1):
        system.latents.copy_(sources)
        system.latents[..., :ends] += 2 * torch.tensor([-0.5, 0.0, 0.5])[:, None, None]

        def error(radius: float) -> float:
            """Root mean square of what is missing where there should be a change, and there where there should not."""
            monkeypatch.setattr(prior, "follow_edges", lambda source, target: radius)
            system._images = None
            edited = system._edited()
            blue = (edited.kept * images + edited.added - images)[..., 2]
            height = float(blue[:, :, : edge // 2].mean())
            should = (torch.arange(images.shape[2]) < edge).float()
            return float((blue / height - should).square().mean().sqrt())

        carried, decoded = error(2.0), error(0.0)
        assert carried < 0.75 * decoded


@pytest.mark.slow
def test_a_field_takes_on_the_shape_that_all_images_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sphere that is a cone in every edited image, by the renderer of the scene itself, with the fit's defaults."""
    folder = tabletop_sources(tmp_path, 2, views=12, size=64)[1].root
    settings = ["tracking=none", f"data.root={folder}", f"output={tmp_path}", "reconstruct.steps=300"]
    job = load([find_config("configs/ids-llff.yaml")], [*settings, "geometry.voxels=300000"])
    assert isinstance(job, SceneJob)
    prior = OneColour(OneColour.Config(image_size=64))
    with GracefulStop() as stop:
        work = SceneEditRun(job, stop)
        source = work.reconstruct().renderer
        edited = copy.deepcopy(source)
        edit = SceneEdit(work.scene, source, prior, Constant(torch.zeros(3)), work.prompts, seed=0)
    system = EditThroughPictures(EditThroughPictures.Config(), edited, edit)
    train = work.scene.train
    names = [f"{Path(name).stem}.png" for name in train.names]
    truths = [torch.from_numpy(iio.imread(folder / "edited" / name)).float() / 255 for name in names]
    change = torch.stack(truths) - train.images
    nothing = torch.zeros_like(change).permute(0, 3, 1, 2)
    system._images = EditedImages.of(change.permute(0, 3, 1, 2), nothing[:, :1], nothing, None)
    monkeypatch.setattr(system, "manual_backward", lambda loss: loss.backward())
    _, adam = system.configure_optimizers()
    for number in range(system.rounds.count):
        for step in range(system.cfg.fit_steps):
            system.fit(FitStep(number, step), adam)

    truth = work.scene.truth
    assert truth is not None
    cameras = (work.scene.test.cameras[i] for i in range(len(work.scene.test)))
    shown = zip(cameras, truth.images, truth.masks, strict=True)
    found = [
        [psnr(field.render(camera).rgb, image, mask) for field in (source, edited)]
        + [psnr(edited.render(camera).rgb, image, ~mask)]
        for camera, image, mask in shown
    ]
    before, inside, outside = torch.tensor(found).mean(0).tolist()
    assert inside > before + 14 and outside > 29


def test_a_tint_leaves_what_rays_meet_faintly(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown as well as without, and the field's colours vary less: what no view shows has no grain."""
    prior = OneColour(OneColour.Config(image_size=16))

    def tinted(faint: float) -> tuple[float, float]:
        """The mean of a tint of 0.04 as it is rendered, and its standard deviation in the field's raw colours."""
        monkeypatch.setattr(targets, "FAINT", faint)
        settings = ("edit.source=photo", "edit.fit_steps=60", "edit.rays_per_step=512")
        system, source = make(tiny, prior, Constant(torch.zeros(3)), *settings)
        monkeypatch.setattr(system, "manual_backward", lambda loss: loss.backward())
        tint = torch.full(system.scene.train.images.shape, 0.04).permute(0, 3, 1, 2)
        system._images = EditedImages.of(tint, 0 * tint[:, :1], 0 * tint, None)
        _, adam = system.configure_optimizers()
        for step in range(system.cfg.fit_steps):
            system.fit(FitStep(0, step), adam)
        cameras = [system.cameras[i] for i in range(len(system.cameras))]
        shown = [system.renderer.render(camera).rgb - source.render(camera).rgb for camera in cameras]
        fields = (renderer.parameter_groups().appearance[0] for renderer in (system.renderer, source))
        after, before = (field.detach() for field in fields)
        moved = (after - before)[after != before]
        return float(torch.stack(shown).mean()), float(moved.std())

    (shown, grain), (without, more) = tinted(targets.FAINT), tinted(1e-12)
    assert shown == pytest.approx(0.04, abs=0.008) and without == pytest.approx(shown, abs=0.008)
    assert grain < 0.8 * more


def test_of_a_cut_out_scene_something_may_be_put_where_nothing_was(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All photographs are empty. What is edited to be red is fitted to as opaque, unless it only tints them."""
    prior = OneColour(OneColour.Config(image_size=16))
    system, _ = make(tiny, prior, Constant(torch.zeros(3)), "edit.source=photo")
    monkeypatch.setattr(system, "manual_backward", lambda loss: loss.backward())
    train = system.scene.train
    empty = replace(train, images=torch.zeros_like(train.images), opacity=torch.zeros(train.images.shape[:3]))
    system.scene = replace(system.scene, train=empty)
    red = torch.zeros(train.images.shape).permute(0, 3, 1, 2).clone()
    red[:, 0] = 0.8
    fitted: list[Tensor] = []

    def record(render: Any, target: Tensor, opacity: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        fitted.append(opacity)
        return before_random_background(render, target, opacity, *rest)

    monkeypatch.setattr(pictures, "before_random_background", record)
    for faded in (1.0, 0.0):
        system._images = EditedImages.of(red, torch.full_like(red[:, :1], faded), 0 * red, None)
        _, adam = system.configure_optimizers()
        system.fit(FitStep(0, 0), adam)
        assert (fitted[-1] == faded).all()


def test_a_sampler_edits_the_sources_once(tiny: Tiny) -> None:
    prior = tiny_sd.prior()
    job = tiny(*SHORT, "guidance=p2p", "guidance.steps=3")
    method = job.guidance.build(prior)
    assert isinstance(method, Sampler)
    system, _ = make(tiny, prior, method, "edit.rounds=3", "edit.fit_steps=2", "edit.views_per_batch=4")
    steps = [system.batch_of_step(i) for i in range(system.steps())]
    assert [type(step) for step in steps[-3:]] == [GuidanceStep, FitStep, FitStep]
    step = steps[0]
    assert isinstance(step, GuidanceStep)
    system.guide(step)
    view = step.views[1]
    camera = system.scene.train.cameras[view].resized(16, 16)
    z_src = system.sources.latent(view, camera)[None]
    alone = method.edit(z_src, *system.prompts, [generator_for(0, f"sampler/{view}")])
    torch.testing.assert_close(system.latents[view], alone[0], rtol=1e-3, atol=1e-4)


def test_a_sampler_edits_a_scene_from_the_command(tiny: Tiny) -> None:
    figures = run(tiny(*SHORT, "guidance=sdedit", "guidance.steps=2"))
    assert figures["guidance"] == "sdedit" and figures["source/psnr"]
    with pytest.raises(
        UserError, match="gives no gradient, which edit pull-back needs: choose edit=pictures"
    ):
        tiny("guidance=p2p").check()


def test_an_edit_of_the_appearance_leaves_the_density(tiny: Tiny, tmp_path: Path) -> None:
    guidance = Constant(torch.tensor([1.0, 0.0, 0.0]))
    system, before = make(
        tiny, OneColour(OneColour.Config(16)), guidance, *SHORT[4:], "edit.appearance_only=true"
    )
    train(system, tmp_path)
    for old, new in zip(
        before.parameter_groups().density, system.renderer.parameter_groups().density, strict=True
    ):
        assert torch.equal(old, new)


def test_it_goes_on_to_the_bit_within_a_round_and_between_two(tiny: Tiny, tmp_path: Path) -> None:
    """Stopped while views are edited, while the field is fitted, and in the second round."""
    whole = tiny(*SHORT, f"output={tmp_path / 'whole'}")
    run(whole)
    job = tiny(*SHORT)
    shutil.copytree(Path(whole.output) / "reconstructions", Path(job.output) / "reconstructions")
    for call in (2, 4, 2, 1):
        stopped(job, EditThroughPictures, call, signal.SIGTERM)
    run(job)
    assert same(state(job), state(whole))
