"""Tracking: what is written where, that W&B asks nothing without a key, and that no tracker can end a run."""

from __future__ import annotations

import builtins
import csv
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ids3d.config import Node
from ids3d.errors import UserError
from ids3d.experiment import Module, SceneJob, module_fields
from ids3d.files import atomic_write
from ids3d.images import save_video
from ids3d.tracking import Curve, Row, Subject, Tracker, Tracking, csv_file, tracking, wandb_run
from tests.tracking import wandb_file

Kind = Literal["wandb", "tensorboard", "csv", "none"]


@pytest.fixture(autouse=True)
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))


def job(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> SceneJob:
    monkeypatch.setattr(SceneJob, "to_mapping", lambda self: {"name": self.name})
    modules = {
        key: Module(key, fields["kinds"], fields["default"], Node())
        for key, fields in module_fields(SceneJob).items()
    }
    return SceneJob(name="toy", tag="a", tracking=kind, **modules)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_goes_on_when_resumed_and_starts_anew_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = job("csv", monkeypatch)
    for name, resume in (("a/loss", False), ("b/loss", True)):
        run = Tracking(toy, tmp_path).open(resume)
        run.log_figures({name: 0.5}, step=3)
        run.close()
    assert rows(tmp_path) == [
        {"a/loss": "0.5", "b/loss": "", "phase": "", "step": "3"},
        {"a/loss": "", "b/loss": "0.5", "phase": "", "step": "3"},
    ]
    run = Tracking(toy, tmp_path).open()
    run.log_figures({"c": 1.0}, step=0)
    run.log_curve(Curve("guidance/residual", "guidance/iteration", ((0, 3.0), (1, 2.0))))
    run.close()
    assert rows(tmp_path) == [{"c": "1.0", "phase": "", "step": "0"}]
    assert (tmp_path / "residual_by_iteration.csv").read_text() == "iteration,residual\n0,3.0\n1,2.0\n"


def test_rows_that_cannot_be_written_are_written_once_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither where the file gets new columns, nor where rows are appended, and none twice."""
    run = Tracking(job("csv", monkeypatch), tmp_path).open()
    run.begin("editing", 0)
    opened = Path.open
    for step in range(4):
        run.log_figures({"a": 1.0} if step < 2 else {"a": 1.0, "b": 2.0}, step)
        with monkeypatch.context() as patch:
            patch.setattr(csv_file, "atomic_write", full_disk)
            patch.setattr(Path, "open", lambda file, *a, **k: HalfWritten(opened(file, *a, **k)))
            run.flush()
        if step % 2:
            run.flush()
    run.close()
    assert [(row["a"], row["b"], row["step"]) for row in rows(tmp_path)] == [
        ("1.0", "", "0"),
        ("1.0", "", "1"),
        ("1.0", "2.0", "2"),
        ("1.0", "2.0", "3"),
    ]
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "metrics.csv cannot be written (No space left on device)" in caplog.text


def full_disk(*_: Any) -> Any:
    raise csv_file.cannot_write(Path("metrics.csv"), OSError(28, "No space left on device"))


class HalfWritten:
    """A file to which half of a text is written before the disk is full; it is read as it is."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> HalfWritten:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __iter__(self) -> Any:
        return iter(self.file)

    def write(self, text: str) -> None:
        self.file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")


def test_none_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Tracking(job("none", monkeypatch), tmp_path / "run").open()
    for call in CALLS.values():
        call(run)
    assert not (tmp_path / "run").exists()


# A tracker that raises

CURVE = Curve("guidance/grad_rms", "guidance/timestep", ((25, 0.5), (75, 0.25)))
CALLS: dict[str, Callable[[Tracking], None]] = {
    "begin": lambda run: run.begin("editing", 0),
    "figures": lambda run: run.log_figures({"edit/moved": 1.0}, 1),
    "panel": lambda run: run.log_panel("edit/00", torch.zeros(4, 6, 3), 1),
    "video": lambda run: run.log_video("evaluate/film", Path("none.mp4"), 1),
    "curve": lambda run: run.log_curve(CURVE),
    "table": lambda run: run.log_table("evaluate/views", [Row("00", {}, {"psnr": 20.0})], 1),
    "summary": lambda run: run.log_summary({"edit/psnr": 20.0, "guidance": "ids"}, 1),
    "keep": lambda run: run.keep("report", "report", Path(__file__)),
    "flush": lambda run: run.flush(),
    "close": lambda run: run.close(),
}


def test_every_method_of_a_tracker_is_called_by_the_tests_here() -> None:
    methods = {name for name, value in vars(Tracker).items() if callable(value) and name[0] != "_"}
    assert methods == {*CALLS, "abandon"}


class Failing(Tracker):
    """Raises in one of its methods, and in `abandon`."""

    label = "Failing"

    def __init__(self, method: str, error: Exception) -> None:
        self.called: list[str] = []
        for name in (*CALLS, "abandon"):
            setattr(self, name, lambda *_, name=name: self.note(name, method, error))

    def note(self, name: str, method: str, error: Exception) -> None:
        self.called.append(name)
        if name in (method, "abandon"):
            raise error


@pytest.mark.parametrize("method", CALLS)
def test_a_tracker_that_raises_is_left_out_and_said_once(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing(method, RuntimeError("the network\nis gone"))
    monkeypatch.setattr(tracking, "WandbRun", lambda *_: failing)
    run = Tracking(job("wandb", monkeypatch), tmp_path).open()
    for _ in range(2):
        for name, call in CALLS.items():
            if name != "close":
                call(run)
    run.close()
    run.close()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["Failing fails (RuntimeError: the network is gone): the run goes on without it"]
    assert failing.called.count(method) == 1 and failing.called[-2:] == [method, "abandon"]
    assert [row["step"] for row in rows(tmp_path)] == ["1"]  # the second `begin` has dropped the first


def test_a_tracker_that_cannot_be_started_ends_the_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Tracker:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tracking, "WandbRun", broken)
    with pytest.raises(UserError, match=r"tracking=wandb cannot be started \(OSError: .*Read-only"):
        Tracking(job("wandb", monkeypatch), tmp_path).open()


# TensorBoard


def accumulated(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_tensorboard_goes_on_without_what_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = job("tensorboard", monkeypatch)
    subject = Subject("ball", ("a red ball", "a blue ball"))
    run = Tracking(toy, tmp_path, subject).open()
    run.begin("reconstructing", 0)
    run.log_figures({"reconstruct/psnr": 20.0}, 11)
    run.begin("editing", 0)
    for step in range(6):
        run.log_figures({"edit/moved": step / 8}, step)
    run.flush()  # and killed
    run = Tracking(toy, tmp_path, subject).open(resume=True)
    run.begin("editing", 4)
    for step in range(4, 8):
        run.log_figures({"edit/moved": step / 4}, step)
    run.log_panel("edit/00", torch.linspace(0, 1, 4 * 6 * 3).view(4, 6, 3), 7)
    for _ in range(2):
        run.log_curve(CURVE)
        run.log_curve(Curve("guidance/residual", "guidance/iteration", ((0, 4.0), (1, 2.0))))
    run.begin("evaluating", 0)
    run.log_table("evaluate/views", [Row("a|b", {}, {"psnr": 20.125})], 8)
    run.log_summary({"edit/psnr": 21.5, "guidance": "ids"}, 8)
    run.close()
    folder = tmp_path / "tensorboard"
    moved = accumulated(folder / "editing").Scalars("edit/moved")
    assert [(e.step, e.value) for e in moved] == [
        (step, step / 8 if step < 4 else step / 4) for step in range(8)
    ]
    (panel,) = accumulated(folder / "editing").Images("edit/00")
    assert (panel.step, panel.width, panel.height) == (7, 6, 4)
    assert [e.step for e in accumulated(folder / "reconstructing").Scalars("reconstruct/psnr")] == [11]
    curve = accumulated(folder / "by_timestep").Scalars("guidance/grad_rms_by_timestep")
    assert [(e.step, e.value) for e in curve] == [(25, 0.5), (75, 0.25)]
    curve = accumulated(folder / "by_iteration").Scalars("guidance/residual_by_iteration")
    assert [(e.step, e.value) for e in curve] == [(0, 4.0), (1, 2.0)]
    evaluated = accumulated(folder / "evaluating")
    assert evaluated.Scalars("edit/psnr")[0].value == 21.5
    text = evaluated.Tensors("evaluate/views/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "| | psnr |\n| --- | --- |\n| a\\|b | 20.12 |"
    about = evaluated.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert about.startswith("ball: a red ball → a blue ball")


def test_tensorboard_that_is_not_installed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "tensorboard":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"TensorBoard is not installed: pip install -e '.\[tensorboard\]'"):
        Tracking(job("tensorboard", monkeypatch), tmp_path).open()


def test_a_tensorboard_whose_folder_goes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Tracking(job("tensorboard", monkeypatch), tmp_path).open()
    run.begin("editing", 0)
    shutil.rmtree(tmp_path / "tensorboard")
    run.log_figures({"a": 1.0}, 1)
    run.begin("evaluating", 0)
    run.log_figures({"b": 1.0}, 1)
    run.close()
    assert accumulated(tmp_path / "tensorboard" / "evaluating").Scalars("b")[0].value == 1
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert len(rows(tmp_path)) == 2


# W&B


def test_whether_there_is_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wandb_run.is_offline()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert not wandb_run.is_offline()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_run.is_offline()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert wandb_run.in_netrc("api.wandb.ai") and not wandb_run.in_netrc("example.org")
    (tmp_path / "netrc").write_text("machine\n")
    with pytest.raises(UserError, match="netrc cannot be read"):
        wandb_run.in_netrc("api.wandb.ai")


def test_a_damaged_state_begins_another_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "ids3d.json"
    assert wandb_run._read_state(file) == (None, 0) and not caplog.records
    with atomic_write(file) as unfinished:
        unfinished.write_text('{"id": "abc", "rows": 100}')
    assert wandb_run._read_state(file) == ("abc", 100)
    for content in ("", "[]", '{"id": "abc"}', '{"id": "abc", "rows": null}', "\0"):
        file.write_text(content)
        assert wandb_run._read_state(file) == (None, 0)
        assert "is damaged" in caplog.text


@pytest.mark.slow
def test_wandb_without_a_key_is_one_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However often it is gone on with, and within one second too."""
    toy, subject = job("wandb", monkeypatch), Subject("ball", ("a red ball", "a blue ball"))
    save_video(tmp_path / "film.mp4", torch.rand(3, 16, 16, 3), fps=5)
    for start in range(3):
        run = Tracking(toy, tmp_path, subject).open(resume=start > 0)
        run.begin("editing", 0)
        run.log_figures({"edit/moved": 1.0}, step=1)
        run.log_panel("edit/00", torch.rand(4, 6, 3), 1)
        run.log_curve(CURVE)
        run.log_video("evaluate/film", tmp_path / "film.mp4", 2)
        row = Row("00", {"source": torch.rand(4, 6, 3)}, {"psnr": 20.0, "prompt": "a"})
        run.log_table("evaluate/views", [row], 2)
        run.log_summary({"edit/psnr": 21.5, "guidance": "ids"}, 2)
        run.keep("film", "video", tmp_path / "film.mp4")
        run.keep("none", "video", tmp_path / "none.mp4")
        run.close()
        run.close()
        said = capsys.readouterr().out
        assert said.count("logged on this machine only") == 1 and said.count("wandb sync ") == 1
    starts = wandb_file.read(tmp_path)
    assert len({start.id for start in starts}) == 1 and len(starts) == 3
    steps = [row["_step"] for start in starts for row in start.history]
    assert steps == sorted(set(steps))
    for start in starts:
        assert start.finished and start.group == "ball: a red ball → a blue ball"
        assert start.config["prompt"] == {"source": "a red ball", "target": "a blue ball"}
        assert start.axes["edit/*"] == "edit/step"
        assert start.axes["guidance/grad_rms"] == "guidance/timestep"
        curve = [
            (r["guidance/timestep"], r["guidance/grad_rms"])
            for r in start.history
            if "guidance/timestep" in r
        ]
        assert curve == [(25, 0.5), (75, 0.25)]
        assert start.summary["edit/psnr"] == 21.5 and start.summary["guidance"] == "ids"
        assert "video" in start.artifacts
    assert len(list(tmp_path.glob("wandb/*run-*/files/media/images/edit/*.png"))) >= 3
