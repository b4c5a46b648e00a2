"""One step of editing, against the same step spelled out with one graph from the field to the latent."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ids3d.data.step_batches import StepDataModule
from ids3d.errors import UserError
from ids3d.experiment import SceneJob
from ids3d.models.guidance.protocol import GuidanceOutput
from ids3d.models.priors.protocol import editing_size
from ids3d.systems.edit_scene.editing import comparison
from ids3d.systems.edit_scene.protocol import SceneEdit
from ids3d.systems.edit_scene.pull_back import EditScene
from ids3d.systems.fitting import fit
from ids3d.systems.resuming import ResumeCheckpoint
from ids3d.systems.scene_edit_phases import SceneEditRun
from ids3d.systems.scene_run import run
from ids3d.systems.stopping import GracefulStop
from tests import tiny_sd

Tiny = Callable[..., SceneJob]


@dataclass
class Fixed:
    """A guidance that returns a given gradient and notes what it was asked."""

    grad: Tensor

    def __call__(self, z_src: Tensor, z_trg: Tensor, *_: Any, progress: float) -> GuidanceOutput:
        self.z_src, self.z_trg, self.progress = z_src, z_trg, progress
        return GuidanceOutput(self.grad[: len(z_trg)], {})


def make(tiny: Tiny, *overrides: str) -> tuple[EditScene, Fixed]:
    experiment = tiny(*overrides)
    with GracefulStop() as stop:
        job = SceneEditRun(experiment, stop)
        renderer = job.build_renderer()
        generator = torch.Generator().manual_seed(5)
        for parameter in renderer.parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator)
        renderer.before_step(0, generator)
        guidance = Fixed(torch.randn(3, 4, 8, 8, generator=generator))
        prompts = ("a red cube", "a blue cube")
        source = copy.deepcopy(renderer)
        edit = SceneEdit(job.scene, source, tiny_sd.prior(), guidance, prompts, seed=0)
        return EditScene(experiment.edit.settings(), renderer, edit), guidance


def latent(system: EditScene, view: int) -> Tensor:
    """z_src of a training view."""
    return system.sources.latent(view, system.scene.train.cameras[view].resized(16, 16))


@pytest.mark.parametrize("views", [[4], [1, 6, 3]])
def test_the_fields_gradient_is_the_whole_graphs(tiny: Tiny, views: list[int]) -> None:
    system, guidance = make(
        tiny, "renderer.chunk=100", "renderer.early_stop_eps=0", "renderer.alpha_threshold=0"
    )
    figures, signal_sq = system.guide(views, step=2)
    parameters = list(system.renderer.parameters())
    got = [p.grad.clone() for p in parameters]

    expected = [torch.zeros_like(p) for p in parameters]
    prior = tiny_sd.prior()
    for view, grad in zip(views, guidance.grad, strict=False):  # one by one, with one graph each
        camera = system.scene.train.cameras[view].resized(16, 16)
        image = system.renderer(camera.rays().flatten()).rgb.view(16, 16, 3)
        loss = (prior.encode(image.permute(2, 0, 1)[None])[0] * grad).sum() / len(views)
        for total, part in zip(expected, torch.autograd.grad(loss, parameters), strict=True):
            total += part
    for a, b in zip(got, expected, strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))
    share = guidance.grad[: len(views)] / len(views)
    assert signal_sq == pytest.approx(float(share.square().sum()), rel=1e-5)
    assert guidance.progress == 2 / system.cfg.steps
    assert torch.allclose(guidance.z_src, guidance.z_trg, atol=1e-5)  # nothing is edited yet
    assert figures["moved"] == pytest.approx(0, abs=1e-5)


def test_the_source_is_the_render_or_the_photograph(tiny: Tiny) -> None:
    (render, _), (photo, _) = make(tiny), make(tiny, "edit.source=photo")
    prior = tiny_sd.prior()
    camera = render.scene.train.cameras[2].resized(16, 16)
    shown = render.renderer.render(camera).rgb.permute(2, 0, 1)[None]
    torch.testing.assert_close(latent(render, 2), prior.encode(shown)[0])
    photograph = render.scene.train.images[2].permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(photograph, (16, 16), mode="bicubic", antialias=True)
    torch.testing.assert_close(latent(photo, 2), prior.encode(small.clamp(0, 1))[0])
    with torch.no_grad():  # made once: later changes of the edited field do not reach it
        before = latent(render, 3).clone()
        for parameter in render.renderer.parameters():
            parameter += 1
    assert torch.equal(latent(render, 3), before)


def test_every_view_has_its_turn(tiny: Tiny) -> None:
    system, _ = make(tiny, "edit.views_per_step=3")
    n = len(system.scene.train)
    drawn = [view for step in range(n) for view in system.batch_of_step(step)]
    rounds = [drawn[i : i + n] for i in range(0, len(drawn), n)]
    assert all(sorted(round_) == list(range(n)) for round_ in rounds)
    assert rounds[0] != rounds[1]
    assert system.batch_of_step(1) == drawn[3:6]


def test_an_edit_of_the_appearance_leaves_the_density(tiny: Tiny) -> None:
    experiment = tiny("edit.appearance_only=true", "edit.lr=1")
    run(experiment)
    last = load_file(experiment.folder / "checkpoints" / "last.safetensors")
    (field,) = (experiment.folder.parents[1] / "reconstructions").glob("*/field.safetensors")
    source = load_file(field)
    assert torch.equal(last["geometry.raw_density"], source["geometry.raw_density"])
    assert not torch.equal(last["geometry.raw_appearance"], source["geometry.raw_appearance"])


def test_the_guidance_is_descended(tiny: Tiny, tmp_path: Path) -> None:
    """With the same gradient at each step, the latents of the views move against it."""
    system, guidance = make(tiny, "edit.lr=0.02", "edit.steps=16")
    before = {v: latent(system, v).clone() for v in range(len(system.scene.train))}
    with GracefulStop() as stop:
        fit(
            system,
            StepDataModule(system.batch_of_step, held_out=1),
            system.steps(),
            label="test",
            device=torch.device("cpu"),
            resume=ResumeCheckpoint(stop, tmp_path / "interrupted.ckpt", "key", ""),
        )
    for view, z in before.items():
        camera = system.scene.train.cameras[view].resized(16, 16)
        moved = system.prior.encode(system.renderer.render(camera).rgb.permute(2, 0, 1)[None])[0] - z
        cosine = torch.nn.functional.cosine_similarity(moved.flatten(), guidance.grad[0].flatten(), dim=0)
        assert float(cosine) < -0.1, view


def test_pictures_keep_their_proportions() -> None:
    prior = tiny_sd.prior()  # 16 pixels, 2 to a latent pixel
    assert editing_size(192, 192, prior) == (16, 16)
    assert editing_size(378, 504, prior) == (16, 22)  # 21.3, to whole latent pixels
    assert editing_size(504, 378, prior) == (22, 16)
    with pytest.raises(UserError, match="too oblong"):
        editing_size(10, 100, prior)


def test_a_comparison_shows_five_pictures(tiny: Tiny) -> None:
    system, _ = make(tiny)
    render = system.renderer.render(system.scene.test.cameras[0])
    compared = comparison(render, render)
    pictures = compared.images
    assert list(pictures) == ["source", "edited", "difference", "source depth", "edited depth"]
    assert compared.panel().shape == (192 + 18, 5 * (192 + 4) + 64, 3)  # with the depths' scale
    assert compared.two_rows().shape == (2 * (192 + 18), 3 * 192 + 2 * 4, 3)
    assert all(image.shape == (24, 24, 3) for image in pictures.values())
    assert float(pictures["difference"].max()) == 0
