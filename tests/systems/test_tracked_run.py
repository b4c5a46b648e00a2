"""What trackers hold of a whole run that was killed and gone on with, read back from their files."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ids3d.experiment import SceneJob
from ids3d.models.guidance.dds import DDS
from ids3d.models.guidance.ids import IDS
from ids3d.models.guidance.protocol import GuidanceTrace
from ids3d.systems.edit_scene.curves import GuidanceCurves
from ids3d.systems.scene_run import run
from tests.systems.processes import finish
from tests.systems.test_kills import words
from tests.systems.test_run import same, state
from tests.tracking import wandb_file
from tests.tracking.remembering import Remembering
from tests.tracking.test_tracking import no_key  # noqa: F401

Tiny = Callable[..., SceneJob]
VIEWS = ("00", "08")
SETTINGS = (
    "save_minutes=1e-9",
    "reconstruct.validate_every=6",
    "edit.steps=6",
    "edit.validate_every=2",
    "edit.region=difference",
    "evaluate.film_frames=2",
)
KILLED = ("ids3d.systems.edit_scene.pull_back:EditScene.training_step", 4)


def killed_and_resumed(job: SceneJob, folder: Path) -> None:
    assert finish(words(job, folder), folder / "said", kill_at=KILLED) == -signal.SIGKILL
    assert finish(words(job, folder), folder / "said") == 0, (folder / "said").read_text()


def csv_rows(job: SceneJob) -> list[dict[str, str]]:
    with (job.folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_wandb_holds_one_run_of_a_job_that_was_killed_once(tiny: Tiny, tmp_path: Path) -> None:
    job = tiny("tracking=wandb", "upload_field=true", *SETTINGS)
    killed_and_resumed(job, tmp_path)
    killed, resumed = wandb_file.read(job.folder)
    assert killed.id == resumed.id and resumed.finished and not killed.finished
    prompts = ("a red cube on a wooden floor", "a blue cube on a wooden floor")
    for start in (killed, resumed):
        assert start.group == f"ball: {' → '.join(prompts)}"
        assert start.config["prompt"] == dict(zip(("source", "target"), prompts, strict=True))
        assert start.config["edit"]["steps"] == 6
    history = killed.history + resumed.history
    numbers = [row["_step"] for row in history]
    assert numbers == sorted(set(numbers))  # they rise, through both files
    # Without a gap: all that metrics.csv has, which is tested against a run that was not killed.
    for name, axis in (("edit/moved", "edit/step"), ("reconstruct/loss", "reconstruct/step")):
        expected = {int(row["step"]): float(row[name]) for row in csv_rows(job) if row[name]}
        logged = {row[axis]: row[name] for row in history if name in row}
        assert logged == pytest.approx(expected)
    for name in (*(f"edit/{view}" for view in VIEWS), "edit/region"):
        assert {row["edit/step"] for row in history if name in row} == {1, 3, 5}
    assert all(any(f"evaluate/{view}" in row for row in resumed.history) for view in VIEWS)
    assert any("evaluate/film" in row for row in resumed.history)
    for row in history:
        for value in row.values():
            if isinstance(value, dict) and str(value.get("_type")).startswith(("image", "video", "table")):
                assert list(job.folder.glob(f"wandb/*run-*/files/{value['path']}")), value
    figures = json.loads((job.folder / "metrics.json").read_text())
    assert {name: resumed.summary[name] for name in figures} == pytest.approx(figures)
    final = {name for row in resumed.history for name in row}
    assert {name for name, value in figures.items() if not isinstance(value, str)} <= final
    (table,) = job.folder.glob("wandb/*run-*/files/media/table/evaluate/views*.json")
    content = json.loads(table.read_text())
    assert [row[0] for row in content["data"]] == list(VIEWS)
    column = content["columns"].index("edit/psnr_inside")
    mean = sum(row[column] for row in content["data"]) / 2
    assert mean == pytest.approx(figures["edit/psnr_inside"])
    assert {"report", "video", "model"} <= set(resumed.artifacts)
    residual = {r["guidance/iteration"] for r in history if "guidance/iteration" in r}
    assert residual == {0, 1, 2, 3}


@pytest.mark.slow
def test_tensorboard_holds_the_same_of_a_job_that_was_killed_once(tiny: Tiny, tmp_path: Path) -> None:
    job = tiny("tracking=tensorboard", *SETTINGS)
    killed_and_resumed(job, tmp_path)
    folder = job.folder / "tensorboard"
    logs = {part.name: EventAccumulator(str(part)).Reload() for part in folder.iterdir() if part.is_dir()}
    assert set(logs) == {"reconstructing", "editing", "evaluating", "by_timestep", "by_iteration"}
    for phase, name in (("editing", "edit/moved"), ("reconstructing", "reconstruct/loss")):
        expected = [(int(row["step"]), float(row[name])) for row in csv_rows(job) if row[name]]
        events = logs[phase].Scalars(name)
        assert [e.step for e in events] == [step for step, _ in expected]
        assert [e.value for e in events] == pytest.approx([value for _, value in expected])
    for name in (*(f"edit/{view}" for view in VIEWS), "edit/region"):
        assert [e.step for e in logs["editing"].Images(name)] == [1, 3, 5]
    for view in VIEWS:
        assert [e.step for e in logs["evaluating"].Images(f"evaluate/{view}")] == [6]
    figures = json.loads((job.folder / "metrics.json").read_text())
    assert logs["evaluating"].Scalars("edit/psnr_inside")[0].value == pytest.approx(
        figures["edit/psnr_inside"]
    )
    for title, axis in (("grad_rms_by_timestep", "timestep"), ("residual_by_iteration", "iteration")):
        events = logs[f"by_{axis}"].Scalars(f"guidance/{title}")
        with (job.folder / f"{title}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [e.step for e in events] == [int(row[axis]) for row in rows]


@pytest.mark.parametrize("edit", ["pull-back", "pictures"])
def test_both_ways_to_edit_are_given_the_tracker(
    tiny: Tiny, edit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Panels at every validation, and curves that a stop in the middle does not change."""
    settings = ["edit=pull-back", "edit.steps=4"]
    if edit == "pictures":
        settings = ["edit=pictures", "edit.steps=2", "edit.rounds=1", "edit.fit_steps=2"]
    fake = Remembering()
    monkeypatch.setattr("ids3d.tracking.tracking.WandbRun", lambda *_: fake)
    job = tiny("tracking=wandb", "edit.validate_every=2", *settings)
    run(job)
    edits = [(f"edit/{view}", step) for step in (1, 3) for view in VIEWS]
    assert [panel for panel in fake.panels if panel[0].startswith("edit/")] == edits
    assert [name for name, _ in fake.panels if name.startswith("evaluate/")] == [
        f"evaluate/{v}" for v in VIEWS
    ]
    assert {curve.name for curve in fake.curves} == {"guidance/grad_rms", "guidance/residual"}


def raises(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("method", ["begin", "figures", "panel", "table", "summary", "flush", "close"])
def test_a_run_ends_well_whatever_its_tracker_does(
    tiny: Tiny, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Remembering()
    monkeypatch.setattr(fake, method, raises)
    monkeypatch.setattr("ids3d.tracking.tracking.WandbRun", lambda *_: fake)
    job = tiny("tracking=wandb", "reconstruct.steps=3", "edit.steps=2", "edit.validate_every=2")
    run(job)
    said = [r.getMessage() for r in caplog.records if "fails" in r.getMessage()]
    assert len(said) == 1 and "No space left on device): the run goes on without it" in said[0]
    assert (job.folder / "metrics.json").exists() and (job.folder / "report.html").exists()
    assert [row["step"] for row in csv_rows(job) if row["edit/moved"]] == ["0", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "removed"])
def test_a_run_ends_well_when_wandb_dies_or_its_folder_goes(tiny: Tiny, tmp_path: Path, how: str) -> None:
    """The real one, in a process of its own, that has to end too; in the middle of the edit."""
    place = "ids3d.systems.edit_scene.pull_back:EditScene.training_step"
    job = tiny("tracking=wandb", "edit.steps=4", "edit.validate_every=2", "evaluate.film_frames=2")
    said = tmp_path / "said"
    assert finish(words(job, tmp_path), said, harm=(place, 2, how)) == 0, said.read_text()
    lines = [line for line in said.read_text().splitlines() if "W&B fails" in line]
    assert len(lines) == (1 if how == "killed" else 0), said.read_text()
    assert "Traceback" not in said.read_text() and "Exception" not in said.read_text()
    assert (job.folder / "metrics.json").exists()
    whole = tiny("tag=whole", "edit.steps=4", "edit.validate_every=2", "evaluate.film_frames=2")
    assert finish(words(whole, tmp_path), said) == 0, said.read_text()  # with as many threads
    assert same(state(job), state(whole))


# The curves of the guidance


def test_curves_are_means_by_timestep_and_by_iteration() -> None:
    curves = GuidanceCurves()
    residuals = torch.tensor([[4.0, 2.0], [8.0, 1.0]])
    curves.add(GuidanceTrace(torch.tensor([10, 49]), torch.tensor([1.0, 2.0]), residuals))
    curves = GuidanceCurves(curves.state())  # saved and gone on with
    curves.add(GuidanceTrace(torch.tensor([950]), torch.tensor([0.5])))
    curves.add(None)
    gradient, residual = curves.curves()
    assert gradient.points == ((25, 1.5), (975, 0.5)) and gradient.title == "guidance/grad_rms_by_timestep"
    assert residual.points == ((0, 6.0), (1, 1.5)) and residual.axis == "guidance/iteration"
    assert GuidanceCurves().curves() == []


def test_a_guidance_traces_each_latent(tiny: Tiny) -> None:
    prior = tiny().prior.build()
    source, target = prior.embed(["a red ball"]), prior.embed(["a blue ball"])
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for method in (IDS(IDS.Config(fpr_iterations=2), prior), DDS(DDS.Config(), prior)):
        seeds = [torch.Generator().manual_seed(i) for i in range(3)]
        output = method(z, z + 0.1, source, target, seeds)
        trace = output.trace
        assert trace is not None and trace.t.shape == (3,) and len(set(trace.t.tolist())) == 3
        rms = output.grad.square().mean(dim=(1, 2, 3)).sqrt()
        torch.testing.assert_close(trace.grad_rms, rms)
        assert output.figures["grad_rms"] == pytest.approx(float(rms.mean()))
        if isinstance(method, DDS):
            assert trace.residuals is None
        else:
            assert trace.residuals is not None and trace.residuals.shape == (3, 3)
            means = [output.figures[f"residual_{i}"] for i in range(3)]
            torch.testing.assert_close(trace.residuals.mean(0), torch.tensor(means))


@pytest.mark.slow
def test_nothing_of_the_libraries_is_said(tiny: Tiny, tmp_path: Path) -> None:
    job = tiny("tracking=none", "evaluate.clip=tabletop", "reconstruct.steps=2", "edit.steps=1")
    said = tmp_path / "said"
    assert finish(words(job, tmp_path), said) == 0
    assert "Loading" not in said.read_text() and "%|" not in said.read_text(), said.read_text()
