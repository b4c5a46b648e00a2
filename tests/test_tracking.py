"""Loggers: what is written where, that W&B asks nothing without a key, and that a resumed run goes on."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import pytest
import torch

from ids3d import tracking
from ids3d.config import Node
from ids3d.errors import UserError
from ids3d.experiment import Module, SceneJob, module_fields
from ids3d.images import save_video
from ids3d.tracking import Tracking


def experiment(loggers: Literal["wandb", "csv", "none"], monkeypatch: pytest.MonkeyPatch) -> SceneJob:
    monkeypatch.setattr(SceneJob, "to_mapping", lambda self: {"name": self.name})
    modules = {
        key: Module(key, fields["kinds"], fields["default"], Node())
        for key, fields in module_fields(SceneJob).items()
    }
    return SceneJob(name="toy", tag="a", tracking=loggers, **modules)


@pytest.fixture(autouse=True)
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_goes_on_when_resumed_and_starts_anew_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = experiment("csv", monkeypatch)
    for name, resume in (("a/loss", False), ("b/loss", True)):
        run = Tracking(toy, tmp_path).open(resume)
        run.loggers[0].log_metrics({name: 0.5}, step=3)
        run.close()
    assert rows(tmp_path) == [
        {"a/loss": "0.5", "b/loss": "", "phase": "", "step": "3"},
        {"a/loss": "", "b/loss": "0.5", "phase": "", "step": "3"},
    ]
    run = Tracking(toy, tmp_path).open()
    run.loggers[0].log_metrics({"c": 1.0}, step=0)
    run.close()
    assert rows(tmp_path) == [{"c": "1.0", "phase": "", "step": "0"}]


def test_none_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Tracking(experiment("none", monkeypatch), tmp_path / "run").open()
    run.begin("editing", 0)
    run.log_panel("x", {"source": torch.zeros(2, 2, 3)}, 0)
    run.log_video("x", tmp_path / "none.mp4", 0)
    run.close()
    assert run.loggers == [] and not (tmp_path / "run").exists()


def test_whether_there_is_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.is_offline()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert not tracking.is_offline()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracking.is_offline()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert tracking.in_netrc("api.wandb.ai") and not tracking.in_netrc("example.org")
    (tmp_path / "netrc").write_text("machine\n")
    with pytest.raises(UserError, match="netrc cannot be read"):
        tracking.in_netrc("api.wandb.ai")


@pytest.mark.slow
def test_wandb_without_a_key_runs_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy, runs = experiment("wandb", monkeypatch), []
    for resume in (False, True):
        run = Tracking(toy, tmp_path).open(resume)
        for logger in run.loggers:
            logger.log_metrics({"loss": 1.0}, step=1)
        run.log_panel("views/0", {"source": torch.rand(4, 6, 3), "edited": torch.rand(4, 6, 3)}, 1)
        save_video(tmp_path / "film.mp4", torch.rand(3, 16, 16, 3), fps=5)
        run.log_video("film", tmp_path / "film.mp4", 2)
        run.close()
        run.close()
        said = capsys.readouterr().out
        assert "logged on this machine only" in said
        runs.append(Path(said.strip().split("wandb sync ")[1]))
    for folder in runs:
        assert len(list(folder.glob("files/media/images/views/*.png"))) == 2
        assert len(list(folder.glob("files/media/videos/*.mp4"))) == 1
        assert len(list(folder.glob("*.wandb"))) == 1
    # offline-run-<second>-<id>, and -1 after it if both began within a second
    assert runs[0] != runs[1] and runs[0].name.split("-")[3] == runs[1].name.split("-")[3]
    assert len(rows(tmp_path)) == 2
