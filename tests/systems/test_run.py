"""Whole runs on a tiny scene: what they leave, that they repeat to the bit, and that they can be stopped anywhere."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
import torch
from safetensors.torch import load_file

from ids3d.errors import Interrupted, UserError
from ids3d.experiment import SceneJob
from ids3d.metrics import psnr
from ids3d.systems.edit_scene.pull_back import EditScene
from ids3d.systems.evaluate.held_out import Evaluate
from ids3d.systems.reconstruct.rays import Reconstruct
from ids3d.systems.saved_run import evaluate_again, load_run
from ids3d.systems.scene_phases import SceneRun
from ids3d.systems.scene_run import run
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import fingerprint, write_json
from tests.systems import tiny_scene

Tiny = Callable[..., SceneJob]


def state(experiment: SceneJob) -> dict[str, torch.Tensor]:
    """The edited field's tensors."""
    return load_file(experiment.folder / "checkpoints" / "last.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_from_start_to_end(tiny: Tiny) -> None:
    experiment = tiny(
        "tracking=csv", "evaluate.film_frames=2", "edit.validate_every=2", "reconstruct.validate_every=6"
    )
    figures = run(experiment)
    folder = experiment.folder
    assert json.loads((folder / "metrics.json").read_text()) == figures
    assert set(figures) == {
        "reconstruction/psnr",
        "reconstruction/psnr_training",
        "reconstruction/seconds",
        "reconstruction/skipped_steps",
        "source/psnr",
        "source/psnr_inside",
        "source/psnr_outside",
        "edit/psnr_inside",
        "edit/psnr_outside",
        "edit/seconds",
        "edit/skipped_steps",
        "guidance",
        "time/total_seconds",
        "memory/peak_gb",
    }
    assert figures["guidance"] == "ids"
    assert figures["reconstruction/psnr"] == pytest.approx(figures["source/psnr"], abs=1e-4)
    assert 0.05 < figures["memory/peak_gb"] < 16
    names = ("source", "edited", "source_depth", "edited_depth", "difference", "panel")
    names += ("photograph", "true_edit", "depths")
    assert sorted(p.name for p in (folder / "renders").iterdir()) == sorted(
        f"{view}_{name}.png" for view in ("00", "08") for name in names
    )
    assert iio.imread(folder / "video.mp4").shape[0] == 2
    page = (folder / "report.html").read_text()
    assert "“a red cube on a wooden floor” to “a blue cube on a wooden floor”" in page
    assert re.findall(r"<h3>(.*)</h3>", page) == ["00", "08"]  # both held-out views
    inside = page.split("inside its mask")[1].split("</tr>")[0]
    assert f"{figures['source/psnr_inside']:.2f}" in inside and f"{figures['edit/psnr_inside']:.2f}" in inside
    header = (folder / "metrics.csv").read_text().split("\n")[0]
    for column in (
        "reconstruct/loss",
        "reconstruct/psnr",
        "edit/grad_rms",
        "edit/moved",
        "edit/lr",
        "edit/residual_0",
    ):
        assert column in header.split(",")
    # The figures are of the images that were written: the mean PSNR inside the masks from the files alone.
    root, values = Path(experiment.data.node["root"]), []
    for view in ("00", "08"):
        shown, truth, mask = (
            torch.from_numpy(iio.imread(path).copy()).float() / 255
            for path in (
                folder / "renders" / f"{view}_edited.png",
                root / "edited" / f"{view}.png",
                root / "masks" / f"{view}.png",
            )
        )
        values.append(psnr(shown, truth, mask[..., 0] > 0.5))
    # Rounding to 8 bits adds an error of 1 / 12 squared grey level to one of some hundreds.
    assert sum(values) / 2 == pytest.approx(float(figures["edit/psnr_inside"]), abs=0.05)


def test_the_same_seed_gives_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    first, again, other = (
        tiny(f"output={tmp_path / name}", f"seed={seed}") for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    figures = [run(experiment) for experiment in (first, again, other)]
    assert same(state(first), state(again))
    assert not same(state(first), state(other))
    for name in ("reconstruction/psnr", "edit/psnr_inside", "edit/psnr_outside"):
        assert figures[0][name] == figures[1][name]


def test_a_reconstruction_is_used_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tiny())
    monkeypatch.setattr(Reconstruct, "training_step", lambda *_: pytest.fail("reconstructed again"))
    second = run(tiny("tag=other", "guidance=dds", "edit.steps=2"))
    assert second["reconstruction/psnr"] == first["reconstruction/psnr"]
    assert second["reconstruction/seconds"] == first["reconstruction/seconds"]
    with pytest.raises(pytest.fail.Exception, match="again"):
        run(tiny("tag=another", "reconstruct.lr_density=0.3"))


def test_other_pictures_are_another_reconstruction(tiny: Tiny, scene_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(scene_folder, tmp_path / "copy")
    with GracefulStop() as stop:
        key, same_key = (
            SceneRun(tiny(f"data.root={root}"), stop).reconstruction_key() for root in (scene_folder, copy)
        )
        assert key == same_key  # the place does not matter
        tiny_scene._save(copy / "images" / "03.png", torch.zeros(24, 24, 3))
        assert SceneRun(tiny(f"data.root={copy}"), stop).reconstruction_key() != key


def test_stage_reconstruct_stops_there(tiny: Tiny) -> None:
    experiment = tiny("stage=reconstruct", "prior.path=/nowhere")  # no prior is loaded
    figures = run(experiment)
    assert set(figures) == {
        "reconstruction/psnr",
        "reconstruction/psnr_training",
        "reconstruction/seconds",
        "reconstruction/skipped_steps",
        "time/total_seconds",
        "memory/peak_gb",
    }
    assert not (experiment.folder / "checkpoints").exists()
    renders = experiment.folder / "renders"
    views = {path.stem.partition("_")[0] for path in renders.iterdir()}
    assert len(views) == 2
    values = []
    for view in sorted(views):
        photograph, render = (
            torch.from_numpy(iio.imread(renders / f"{view}_{kind}.png") / 255.0)
            for kind in ("photograph", "render")
        )
        assert (renders / f"{view}_depth.png").exists() and (renders / f"{view}_panel.png").exists()
        values.append(psnr(render, photograph))
    # Both are rounded to 8 bits in the files.
    assert sum(values) / 2 == pytest.approx(float(figures["reconstruction/psnr"]), abs=0.05)


def stop_in(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, call: int, number: int) -> None:
    """Send this process the signal `number` in the `call`-th call of owner.method."""
    original, calls = getattr(owner, method), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, method, wrapped)


STOPPABLE = ("reconstruct.refine_at=[0.5]", "edit.views_per_step=3")


@pytest.fixture(scope="module")
def undisturbed(
    tiny_in: Callable[..., SceneJob], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, torch.Tensor], dict[str, float | str]]:
    experiment = tiny_in(tmp_path_factory.mktemp("whole"), *STOPPABLE)
    figures = run(experiment)
    return state(experiment), figures


@pytest.mark.parametrize(
    ("owner", "method", "call", "number"),
    [
        (Reconstruct, "training_step", 7, signal.SIGINT),
        (Reconstruct, "training_step", 12, signal.SIGTERM),  # the last step
        (EditScene, "training_step", 2, signal.SIGTERM),
        (EditScene, "training_step", 4, signal.SIGINT),  # the last step
        (Evaluate, "_measure", 1, signal.SIGINT),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_end(
    tiny: Tiny,
    undisturbed: tuple[dict[str, torch.Tensor], dict[str, float | str]],
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    method: str,
    call: int,
    number: int,
) -> None:
    experiment, before = tiny(*STOPPABLE), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        stop_in(patch, owner, method, call, number)
        with pytest.raises(Interrupted, match=f"python launch.py --resume {experiment.folder}"):
            run(experiment)
    assert not (experiment.folder / "metrics.json").exists()
    figures = run(experiment)
    expected_state, expected = undisturbed
    assert same(state(experiment), expected_state)
    for name in ("reconstruction/psnr", "edit/psnr_inside", "edit/psnr_outside"):
        assert figures[name] == expected[name]
    assert not list(Path(experiment.output).rglob("interrupted*"))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)


def test_testing_evaluates_what_is_there(tiny: Tiny) -> None:
    experiment = tiny()
    with pytest.raises(UserError, match="nothing has been edited"):
        evaluate_again(experiment)
    first = run(experiment)
    (experiment.folder / "metrics.json").unlink()
    again = evaluate_again(experiment)
    assert again["edit/psnr_inside"] == first["edit/psnr_inside"]
    assert (experiment.folder / "metrics.json").exists()


def test_a_finished_run_is_read_back(tiny: Tiny) -> None:
    experiment = tiny()
    figures = run(experiment)
    saved = load_run(experiment.folder)
    assert saved.prompts == ("a red cube on a wooden floor", "a blue cube on a wooden floor")
    assert saved.figures["reconstruction/psnr"] == figures["reconstruction/psnr"]
    restored = {k: v for k, v in saved.edited.renderer.state_dict().items() if isinstance(v, torch.Tensor)}
    assert same(restored, state(experiment))
    test = saved.scene.test
    values = [psnr(saved.source.render(test.cameras[i]).rgb, test.images[i]) for i in range(len(test))]
    assert sum(values) / len(values) == pytest.approx(float(figures["source/psnr"]), abs=1e-4)
    (field,) = Path(experiment.output).glob("reconstructions/*/field.safetensors")
    shutil.rmtree(field.parent)
    with pytest.raises(UserError, match=r"its reconstruction, .* is gone or"):
        load_run(experiment.folder)
    with pytest.raises(UserError, match=r"its reconstruction, .* is gone or"):
        evaluate_again(experiment)
    assert not field.exists()


def test_no_truth_no_figures_of_it(tiny: Tiny, tmp_path: Path) -> None:
    root = tiny_scene.write(tmp_path / "bare", truth=False, captions=False)
    with pytest.raises(UserError, match=r"prompt.source is not given and the scene has no captions.json"):
        run(tiny(f"data.root={root}"))
    prompts = ('prompt.source="a red cube"', "prompt.target=a blue cube")
    figures = run(tiny(f"data.root={root}", *prompts))
    assert {"source/psnr", "edit/seconds"} <= set(figures)
    assert not [name for name in figures if "inside" in name or "outside" in name]


@pytest.mark.parametrize(
    "what", ["prior.path=/no/such/place", "data.root=/no/such/place", "guidance=nonsense"]
)
def test_what_is_wrong_is_found_before_any_training(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(Reconstruct, "training_step", lambda *_: pytest.fail("trained"))
    experiment = tiny(what)
    with pytest.raises(UserError):
        run(experiment)
    assert not experiment.folder.exists()


def test_the_logs_hold_no_chatter(tiny: Tiny, capfd: pytest.CaptureFixture[str], recwarn: Any) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.INFO)
    run(tiny("reconstruct.steps=3", "edit.steps=2", "edit.validate_every=1"))
    seen = capfd.readouterr()
    for word in ("GPU", "TPU", "Tip", "max_steps", "sanity", "workers", "LeafSpec", "eval mode"):
        assert word not in seen.err + seen.out
    assert not [
        str(w.message) for w in recwarn if "Lightning" in str(w.message) or "loader" in str(w.message)
    ]


def test_undefined_figures_are_null(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"a": math.nan, "b": math.inf, "c": 1.5, "d": "ids"})
    assert json.loads((tmp_path / "m.json").read_text()) == {"a": None, "b": None, "c": 1.5, "d": "ids"}
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
