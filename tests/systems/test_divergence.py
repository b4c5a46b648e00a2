"""Numbers that are not finite, put in by hand: left out where they arise, gone back from, in the end a clear stop."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins.precision import Precision
from safetensors.torch import load_file
from torch import Tensor

from ids3d.cli import run_command
from ids3d.errors import RunFailed
from ids3d.experiment import ImageJob, SceneJob, load
from ids3d.models.guidance.distillation import Distillation
from ids3d.models.priors.stable_diffusion import StableDiffusion
from ids3d.models.renderers.occupancy import OccupancyRenderer
from ids3d.systems import fitting
from ids3d.systems.divergence import Watch
from ids3d.systems.edit_scene.pictures import EditThroughPictures
from ids3d.systems.edit_scene.pull_back import EditScene
from ids3d.systems.image_run import run as run_images
from ids3d.systems.reconstruct.rays import Reconstruct
from ids3d.systems.scene_run import run
from tests import tiny_sd
from tests.systems.test_edit_images import CONFIG, image
from tests.systems.test_run import same, state
from tests.systems.test_run_life import stopped

Tiny = Callable[..., SceneJob]
PICTURES = (
    *("edit=pictures", "edit.validate_every=0", "edit.log_every=1", "edit.rounds=2", "edit.steps=8"),
    *("edit.fit_steps=6", "edit.views_per_batch=4", "edit.rays_per_step=256"),
)
FOREVER = range(10**6)


def wrong_at(
    patch: pytest.MonkeyPatch, owner: Any, name: str, calls: Collection[int], change: Callable[[Any], Any]
) -> list[int]:
    """Change what a method returns at some of its calls; a list of one number, the calls so far."""
    original, count = getattr(owner, name), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        result = original(*args, **kwargs)
        return change(result) if count[0] - 1 in calls else result

    patch.setattr(owner, name, wrapped)
    return count


def nan(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, math.nan)


def infinite(render: Any) -> Any:
    return dataclasses.replace(render, rgb=render.rgb * math.inf)


def nan_gradient(render: Any) -> Any:
    """A render whose numbers are those that they should be, and whose gradient is not a number."""
    return dataclasses.replace(render, rgb=render.rgb + (render.rgb * 0).abs().sqrt())


def finite(job: SceneJob) -> bool:
    return all(bool(v.float().isfinite().all()) for v in state(job).values())


@pytest.mark.parametrize("what", [infinite, nan_gradient])
def test_a_reconstruction_leaves_out_what_is_not_finite(
    tiny: Tiny, what: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    job = tiny("stage=reconstruct", "tracking=csv")
    with pytest.MonkeyPatch.context() as patch:
        wrong_at(patch, OccupancyRenderer, "forward", (3, 4, 7), what)
        figures = run(job)
    assert figures["reconstruction/skipped_steps"] == 3
    assert json.loads((job.folder / "metrics.json").read_text()) == figures
    assert caplog.text.count("is not finite, and left out") == 1
    assert math.isfinite(float(figures["reconstruction/psnr"]))


def test_a_step_that_is_left_out_changes_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Field and optimiser stand as before it: Adam's averages know nothing of it."""
    before: list[dict[str, Any]] = []
    after: list[dict[str, Any]] = []

    def copied(module: Reconstruct) -> dict[str, Any]:
        adam = module.trainer.optimizers[0]
        tensors = [p.detach() for group in adam.param_groups for p in group["params"]]
        tensors += [v for s in adam.state.values() for v in s.values()]
        return {str(i): t.clone() for i, t in enumerate(tensors)}

    monkeypatch.setattr(
        Reconstruct, "on_train_batch_end", lambda m, *_: after.append(copied(m)), raising=False
    )
    original = Reconstruct.training_step

    def step(self: Reconstruct, *args: Any) -> Tensor:
        before.append(copied(self))
        return original(self, *args)

    monkeypatch.setattr(Reconstruct, "training_step", step)
    wrong_at(monkeypatch, OccupancyRenderer, "forward", (4,), infinite)
    run(tiny("stage=reconstruct", "reconstruct.refine_at=[]"))
    assert [same(b, a) for b, a in zip(before, after, strict=True)] == [i == 4 for i in range(12)]


@pytest.mark.parametrize("way", ["pictures", "pull-back"])
def test_the_unet_gives_nan(tiny: Tiny, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny(*(PICTURES if way == "pictures" else ()), "guidance=dds", "tracking=csv")
    wrong_at(monkeypatch, StableDiffusion, "predict_noise", (1, 2), nan)
    figures = run(job)
    assert figures["edit/skipped_steps"] == 2 and finite(job)
    assert math.isfinite(float(figures["edit/psnr_inside"]))


def test_of_views_edited_side_by_side_only_the_bad_one_is_left_out(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latents before the first fit: the other views' are those of a run without NaN."""
    seen: list[Tensor] = []

    def fit(self: EditThroughPictures, *args: Any) -> dict[str, float]:
        seen.append(self.latents.detach().clone())
        raise StopAsking

    monkeypatch.setattr(EditThroughPictures, "fit", fit)
    for bad in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if bad:
                wrong_at(patch, Distillation, "__call__", (1,), lambda out: with_nan(out, 2))
            with pytest.raises(StopAsking):
                run(tiny(*PICTURES, "guidance=dds", f"output={tmp_path / str(bad)}"))
    whole, one_bad = seen
    equal = [torch.equal(a, b) for a, b in zip(whole, one_bad, strict=True)]
    assert equal == [view != 2 for view in range(8)] and bool(one_bad.isfinite().all())


class StopAsking(Exception):
    pass


def with_nan(output: Any, row: int) -> Any:
    output.grad[row, 0, 0, 0] = math.nan
    return output


@pytest.mark.parametrize("call", [1, 17], ids=["of one to be edited", "while fitting"])
def test_an_infinite_render_in_an_edit(tiny: Tiny, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny(*PICTURES, "guidance=dds", "edit.source=render")
    run(tiny("stage=reconstruct", "tag=r"))
    owner = "render" if call == 1 else "forward"
    wrong_at(monkeypatch, OccupancyRenderer, owner, (8 if call == 1 else call,), infinite)
    figures = run(job)
    assert figures["edit/skipped_steps"] == 1 and finite(job)


def test_it_goes_back_and_on_at_half_the_rate(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Five steps are wrong, once: done again, at half the rates; stopped on the way, it ends in the same bits."""
    rates: list[float] = []
    original = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[1]["lr"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    rate = "reconstruct.lr_appearance=0.05"
    settings = ("reconstruct.steps=14", "stage=reconstruct", "tracking=csv", "reconstruct.lr_decay=1", rate)
    whole = tiny(*settings, f"output={tmp_path / 'whole'}")
    with monkeypatch.context() as patch:
        wrong_at(patch, OccupancyRenderer, "forward", range(4, 9), infinite)
        figures = run(whole)
    assert figures["reconstruction/skipped_steps"] == 5
    assert "5 steps in a row are not finite: back to step 0, at 0.5 of the rates" in caplog.text
    assert rates == pytest.approx([0.05] * 4 + [0.025] * 14)
    lines = (whole.folder / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("step")
    assert [int(line.split(",")[column]) for line in lines[1:]] == list(range(14))

    job = tiny(*settings)
    with monkeypatch.context() as patch:
        wrong_at(patch, OccupancyRenderer, "forward", range(4, 9), infinite)
        stopped(job, Reconstruct, 7)  # amid the wrong ones: it knows of three of them
    with monkeypatch.context() as patch:
        wrong_at(patch, OccupancyRenderer, "forward", range(0, 2), infinite)
        assert run(job)["reconstruction/skipped_steps"] == 5
    a, b = (load_file(next(Path(j.output).glob("reconstructions/*/field.safetensors"))) for j in (job, whole))
    assert same(a, b)


@pytest.mark.parametrize("way", ["pictures", "pull-back"])
def test_it_stops_with_its_state_kept(
    tiny: Tiny, way: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = EditThroughPictures if way == "pictures" else EditScene
    steps = ["edit.steps=10"] if way == "pull-back" else []
    job = tiny(*(PICTURES if way == "pictures" else ()), *steps, "guidance=dds")
    with monkeypatch.context() as patch:
        wrong_at(patch, StableDiffusion, "predict_noise", FOREVER, nan)
        done = wrong_at(patch, system, "training_step", (), lambda x: x)
        assert run_command(lambda _: run(job), []) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    kept = job.folder / "checkpoints" / "interrupted.ckpt"
    assert (
        f"is kept in {kept}" in line and "5 steps in a row are not finite, even at 0.125 of the rates" in line
    )
    assert done == [20]
    checkpoint = torch.load(kept, weights_only=True)
    assert all(
        bool(v.float().isfinite().all()) for v in checkpoint["state_dict"].values() if isinstance(v, Tensor)
    )
    assert not (job.folder / "metrics.json").exists()
    assert math.isfinite(float(run(job)["edit/psnr_inside"]))  # the UNet is mended


@pytest.mark.parametrize("way", ["pictures", "pull-back"])
def test_where_all_is_finite_nothing_is_changed(
    tiny: Tiny, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit what it is with Lightning's own steps, and with no state kept in memory."""
    watched, plain = (
        tiny(*(PICTURES if way == "pictures" else ()), f"output={tmp_path / name}") for name in "ab"
    )
    run(watched)
    monkeypatch.setattr(fitting, "FiniteSteps", lambda watch: Precision())
    monkeypatch.setattr(Watch, "on_train_batch_start", lambda *_: None)
    monkeypatch.setattr(Watch, "on_train_batch_end", lambda *_: None)
    run(plain)
    assert same(state(watched), state(plain))


def image_job(folder: Path, *overrides: str) -> ImageJob:
    settings = ["tracking=none", "prior=stable-diffusion", f"prior.path={tiny_sd.folder('epsilon')}"]
    loop = ["evaluate.clip=null", "evaluate.strip=0", "guidance=dds", f"output={folder / 'out'}", "tag=t"]
    loaded = load([CONFIG], [*settings, *loop, *overrides])
    assert isinstance(loaded, ImageJob)
    return loaded


def two_images(folder: Path) -> Path:
    folder.mkdir()
    for i in range(2):
        image(folder / f"{i}.png", i)
    (folder / "prompts.csv").write_text(
        "name,source,target\n" + "".join(f"{i}.png,a red cube,a blue cube\n" for i in range(2))
    )
    return folder


def test_an_image_is_left_as_it_is_in_a_step_that_is_not_finite(tmp_path: Path) -> None:
    folder = two_images(tmp_path / "in")
    jobs = [image_job(tmp_path / name, f"data.folder={folder}", "edit.steps=8") for name in ("whole", "bad")]
    run_images(jobs[0])
    with pytest.MonkeyPatch.context() as patch:
        wrong_at(patch, Distillation, "__call__", (2, 3), lambda out: with_nan(out, 1))
        run_images(jobs[1])
    for name, count in (("0", 0), ("1", 2)):
        results = [json.loads((job.folder / name / "result.json").read_text()) for job in jobs]
        assert [result["edit/skipped_steps"] for result in results] == [0, count]
        pictures = [(job.folder / name / "edited.png").read_bytes() for job in jobs]
        assert (pictures[0] == pictures[1]) == (name == "0")


def test_an_image_that_never_is_finite_is_said_and_the_others_are_edited(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = two_images(tmp_path / "in")
    job = image_job(tmp_path, f"data.folder={folder}", "edit.steps=24")
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        wrong_at(patch, Distillation, "__call__", FOREVER, lambda out: with_nan(out, 1))
        with pytest.raises(RunFailed, match=r"1 of 2 images not edited: 1 \(its numbers do not stay finite"):
            run_images(job)
    assert (job.folder / "0" / "edited.png").exists() and not (job.folder / "1").exists()
