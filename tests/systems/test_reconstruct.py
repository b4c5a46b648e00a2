"""Reconstruction: that it fits, that its rates fall as set, and that the optimiser goes on after a refinement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from ids3d.data.step_batches import StepDataModule
from ids3d.errors import UserError
from ids3d.experiment import SceneJob
from ids3d.metrics import psnr
from ids3d.models.geometry.protocol import Smoothing
from ids3d.models.renderers.occupancy import OccupancyRenderer
from ids3d.models.renderers.protocol import RayRender
from ids3d.rendering import Samples
from ids3d.scene import Scene
from ids3d.systems.fitting import fit
from ids3d.systems.random_background import before_random_background
from ids3d.systems.reconstruct.rays import Reconstruct
from ids3d.systems.resuming import ResumeCheckpoint
from ids3d.systems.scene_phases import SceneRun
from ids3d.systems.stopping import GracefulStop

Tiny = Callable[..., SceneJob]


class Recorder(pl.Callback):
    """Notes after each step: the rates, the parameters' sizes, and whether the optimiser holds the field's own."""

    def __init__(self) -> None:
        self.rates: list[tuple[float, ...]] = []
        self.sizes: list[int] = []
        self.held: list[bool] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        (adam,) = trainer.optimizers
        self.rates.append(tuple(group["lr"] for group in adam.param_groups))
        groups = module.renderer.parameter_groups()
        self.sizes.append(len(groups.density[0]))
        field = [*groups.density, *groups.appearance]
        optimised = [p for group in adam.param_groups[:2] for p in group["params"]]
        self.held.append(all(a is b for a, b in zip(field, optimised, strict=True)))
        self.losses.append(float(outputs["loss"]))


def reconstruct(
    job: SceneJob, tmp_path: Path, alter: Callable[[Scene], Scene] = lambda scene: scene
) -> tuple[Reconstruct, Recorder]:
    """A reconstruction from start to end, and what was noted of it."""
    recorder = Recorder()
    with GracefulStop() as stop:
        run = SceneRun(job, stop)
        module = job.reconstruct.build(run.build_renderer(), alter(run.scene), job.seed)
        fit(
            module,
            StepDataModule(module.batch_of_step, held_out=1),
            module.cfg.steps,
            label="test",
            device=torch.device("cpu"),
            resume=ResumeCheckpoint(stop, tmp_path / "interrupted.ckpt", "key", ""),
            callbacks=[recorder],
        )
    return module, recorder


def test_it_fits_the_held_out_views_better_than_any_one_colour(tiny: Tiny, tmp_path: Path) -> None:
    module, _ = reconstruct(tiny("reconstruct.steps=150", "reconstruct.rays_per_step=512"), tmp_path)
    for i in range(len(module.scene.test)):
        truth = module.scene.test.images[i]
        plain = truth.mean(dim=(0, 1)).expand_as(truth)  # the one colour with the least squared error
        assert psnr(module.renderer.render(module.scene.test.cameras[i]).rgb, truth) > psnr(plain, truth) + 3


def test_the_rates_fall_exponentially(tiny: Tiny, tmp_path: Path) -> None:
    job = tiny("reconstruct.steps=8", "reconstruct.lr_density=0.4", "reconstruct.lr_appearance=0.1")
    _, recorder = reconstruct(job, tmp_path)
    expected = [(0.4 * 0.1 ** (step / 8), 0.1 * 0.1 ** (step / 8)) for step in range(8)]
    assert recorder.rates == [pytest.approx(pair) for pair in expected]


def test_the_optimiser_survives_a_refinement(tiny: Tiny, tmp_path: Path) -> None:
    job = tiny("reconstruct.steps=40", "reconstruct.refine_at=[0.25,0.5]", "reconstruct.finer=4")
    module, recorder = reconstruct(job, tmp_path)
    full = len(module.renderer.parameter_groups().density[0])
    assert full == pytest.approx(8000, rel=0.1)
    for size, (first, last) in zip((500, 2000, 8000), ((0, 10), (10, 20), (20, 40)), strict=True):
        seen = set(recorder.sizes[first:last])
        assert len(seen) == 1 and seen.pop() == pytest.approx(size, rel=0.25), size
    assert all(recorder.held)  # it is the field's present parameters that are optimised
    # What was fitted before a refinement is not lost by it, and the fit goes on.
    for refined in (10, 20):
        before = sum(recorder.losses[refined - 3 : refined]) / 3
        assert sum(recorder.losses[refined : refined + 3]) / 3 < 1.5 * before
    assert sum(recorder.losses[-3:]) < 0.8 * sum(recorder.losses[7:10])


@pytest.mark.parametrize("setting", ["renderer.alpha_threshold=0.5", "geometry.initial_alpha=1e-6"])
def test_a_field_too_faint_to_be_seen_is_refused(tiny: Tiny, tmp_path: Path, setting: str) -> None:
    """Nothing would ever be learned of it: without a sample there is no gradient."""
    with pytest.raises(UserError, match=r"no ray .* meets anything .*geometry\.initial_alpha"):
        reconstruct(tiny(setting, "reconstruct.steps=2"), tmp_path)


def test_without_refinement_the_field_has_its_full_size_from_the_start(tiny: Tiny, tmp_path: Path) -> None:
    _, recorder = reconstruct(tiny("reconstruct.steps=4", "reconstruct.refine_at=[]"), tmp_path)
    assert len(set(recorder.sizes)) == 1 and recorder.sizes[0] == pytest.approx(8000, rel=0.1)


def test_what_photographs_show_becomes_opaque(tiny: Tiny, tmp_path: Path) -> None:
    """Also what is dark, which before a black background might as well be nothing."""
    opacities = []
    for i, behind in enumerate(("null", "false")):
        job = tiny(
            "reconstruct.steps=150", "reconstruct.rays_per_step=512", f"data.random_background={behind}"
        )
        module, _ = reconstruct(job, tmp_path / str(i))
        render, photograph = (
            module.renderer.render(module.scene.train.cameras[0]),
            module.scene.train.images[0],
        )
        dark = photograph.mean(-1) < photograph.mean(-1).quantile(0.2)
        opacities.append(float(render.opacity[dark].mean()))
    assert 1 - opacities[0] < 0.1 * (1 - opacities[1]), opacities


def test_exposures_that_differ_are_told_from_the_field(tiny: Tiny, tmp_path: Path) -> None:
    """Each photograph's own brightness and balance is found, and the field has the average's colours."""
    gain = (0.4 * torch.rand(8, 3, generator=torch.Generator().manual_seed(0)) - 0.2).exp()
    gain = gain / gain.log().mean(dim=0).exp()

    def exposed(scene: Scene) -> Scene:
        train = replace(scene.train, images=0.8 * gain[:, None, None] * scene.train.images)
        return replace(scene, train=train, test=replace(scene.test, images=0.8 * scene.test.images))

    quality = []
    for i, rate in enumerate((0.0, 1e-2)):
        settings = (
            "reconstruct.steps=200",
            "reconstruct.rays_per_step=512",
            f"reconstruct.lr_exposure={rate}",
        )
        module, _ = reconstruct(tiny(*settings), tmp_path / str(i), exposed)
        held_out = module.scene.test
        shown = [module.renderer.render(held_out.cameras[i]).rgb for i in range(len(held_out))]
        quality.append(psnr(torch.stack(shown), held_out.images))
    assert module.exposure is not None
    found, offset = module.exposure.maps()
    assert (0.4 * found + offset).sub(0.4 * gain).abs().max() < 0.02
    assert quality[1] > quality[0] + 1, quality


def test_behind_what_is_cut_out_nothing_is_exposed(tiny: Tiny, tmp_path: Path) -> None:
    """An object's own colours change as its camera was set; what it is laid over has the same colour in all views."""
    background = (0.2, 0.9, 0.5)

    def cut_out(scene: Scene) -> Scene:
        train = replace(scene.train, opacity=torch.ones(scene.train.images.shape[:3]))
        return replace(scene, train=train, bounds=replace(scene.bounds, background=background))

    module, _ = reconstruct(tiny("reconstruct.steps=1", "reconstruct.lr_exposure=0.1"), tmp_path, cut_out)
    assert module.exposure is not None
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        module.exposure.log_gain.uniform_(-0.5, 0.5, generator=draws)
        module.exposure.offset.uniform_(-0.1, 0.1, generator=draws)
    gain, offset = module.exposure.maps()
    colour, opacity = torch.rand(8, 3, generator=draws), 0.1 + 0.9 * torch.rand(8, 1, generator=draws)
    laid_over = (1 - opacity) * torch.tensor(background)
    nothing = torch.zeros(0)
    samples = Samples(nothing, nothing, nothing.long(), torch.zeros(8, 2).long())
    render = RayRender(opacity * colour + laid_over, opacity[:, 0], opacity[:, 0], nothing, samples)
    exposed = module._exposed(module.exposure, render, torch.arange(8))
    torch.testing.assert_close(exposed, opacity * (gain * colour + offset) + laid_over)


def test_a_random_background_is_laid_behind_both() -> None:
    generator = torch.Generator().manual_seed(0)
    rgb, target = torch.rand(2, 5, 3, generator=generator)
    seen, known = torch.rand(2, 5, generator=generator)
    background = (0.2, 0.3, 0.4)
    nothing = torch.zeros(0)
    render = RayRender(
        rgb, seen, seen, nothing, Samples(nothing, nothing, nothing.long(), torch.zeros(5, 2).long())
    )
    behind = torch.rand(5, 3, generator=torch.Generator().manual_seed(7))
    draws = torch.Generator().manual_seed(7)
    ours, theirs = before_random_background(render, target, known, background, draws)
    for i in range(5):
        for c in range(3):
            own = float(rgb[i, c]) - (1 - float(seen[i])) * background[c]  # without anything behind
            assert float(ours[i, c]) == pytest.approx(
                own + (1 - float(seen[i])) * float(behind[i, c]), abs=1e-6
            )
            own = float(target[i, c]) - (1 - float(known[i])) * background[c]
            assert float(theirs[i, c]) == pytest.approx(
                own + (1 - float(known[i])) * float(behind[i, c]), abs=1e-6
            )
    assert before_random_background(render, target, None, background, draws) == (rgb, target)


def test_the_weight_of_the_distortion_grows_with_the_square_of_the_steps(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        RayRender, "distortion", lambda self: torch.tensor(2.0)
    )  # no gradient: the fields are equal
    losses = []
    for weight in (0.0, 0.3):
        job = tiny("reconstruct.steps=4", f"reconstruct.distortion={weight}")
        _, recorder = reconstruct(job, tmp_path / str(weight))
        losses.append(torch.tensor(recorder.losses))
    full = 0.3 * 2 / job.data.build().load().bounds.length
    torch.testing.assert_close(
        losses[1] - losses[0], full * torch.tensor([1, 4, 9, 16]) / 16, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_many_pixels_outvote_the_smoothing(
    share: float, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twice as many pixels as the weights are meant for, half of the total variation counts; of fewer, all of it."""
    asked: list[Smoothing] = []
    smooth = OccupancyRenderer.smooth

    def listen(
        self: OccupancyRenderer, weights: Smoothing, generator: torch.Generator | None
    ) -> torch.Tensor:
        asked.append(weights)
        assert self.parameter_groups().density[0].grad is not None  # the loss's, to which it is added
        return smooth(self, weights, generator)

    monkeypatch.setattr(OccupancyRenderer, "smooth", listen)
    quick = ["reconstruct.steps=1", "reconstruct.tv_density=0.2", "reconstruct.tv_appearance=0.1"]
    scene = tiny().data.build().load()
    pixels = len(scene.train) * scene.train.cameras.height * scene.train.cameras.width
    monkeypatch.setattr("ids3d.systems.reconstruct.rays.SMOOTHED", 0.5 * pixels if share < 1 else 2 * pixels)
    reconstruct(tiny(*quick), tmp_path)
    assert asked == [Smoothing(pytest.approx(share * 0.2), pytest.approx(share * 0.1))]
