"""The sweeps of configs/sweeps/, as W&B's agent would run them: its own code builds the command lines here."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps import utils as agent

from ids3d.experiment import SceneJob, load
from ids3d.launch import parse_arguments
from tests.systems.conftest import CONFIG
from tests.systems.processes import finish
from tests.systems.test_kills import write
from tests.tracking import wandb_file
from tests.tracking.test_tracking import no_key  # noqa: F401

SWEEPS = sorted((CONFIG.parent / "sweeps").glob("*.yaml"))


def values(parameter: dict[str, Any]) -> list[Any]:
    """All values of a grid's parameter, both ends of a range."""
    return parameter.get("values") or [parameter["min"], parameter["max"]]


def command_line(sweep: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """What the agent starts for a choice of values, as it fills in the macros."""
    known = agent.create_sweep_command_args({"args": {k: {"value": v} for k, v in chosen.items()}})
    known |= {"interpreter": ["python"], "program": [sweep["program"]], "env": ["/usr/bin/env"]}
    words = []
    for word in agent.create_sweep_command(list(sweep["command"])):
        words += known[word[2:-1]] if word.startswith("${") else [word]
    return words


def test_there_are_sweeps() -> None:
    assert len(SWEEPS) >= 2


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_command_line_of_a_sweep_is_a_job(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep: dict[str, Any] = agent.load_sweep_config(str(file))
    assert sweep == yaml.safe_load(file.read_text())
    assert sweep["method"] in ("grid", "random", "bayes") and (CONFIG.parents[1] / sweep["program"]).exists()
    assert sweep["metric"] == {
        "name": "edit/psnr_inside",
        "goal": "maximize",
    }  # a test of the run has its figures
    names, choices = list(sweep["parameters"]), map(values, sweep["parameters"].values())
    for choice in itertools.product(*choices):
        words = command_line(sweep, dict(zip(names, choice, strict=True)))
        assert words[:3] == ["/usr/bin/env", "python", "launch.py"]
        arguments = parse_arguments(words[3:])
        monkeypatch.chdir(CONFIG.parents[1])
        job = load(arguments.files, arguments.overrides)
        job.check()
        assert isinstance(job, SceneJob) and job.tracking == "wandb"


@pytest.mark.slow
def test_a_command_line_of_a_sweep_runs(
    tiny: Callable[..., SceneJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny scene in place of the sample; the agent says by the environment which run it is."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "chosen01")
    sweep = agent.load_sweep_config(str(CONFIG.parent / "sweeps" / "methods.yaml"))
    assert sweep is not None
    words = command_line(sweep, {"guidance.type": "dds", "seed": 3})[3:]
    small = write(tiny("evaluate.film_frames=0"), tmp_path)
    words[words.index("configs/ids-llff.yaml")] = str(small)
    assert finish(words, tmp_path / "said") == 0, (tmp_path / "said").read_text()
    (run,) = wandb_file.read(tiny().folder)
    assert run.id == "chosen01" and run.config["guidance"]["type"] == "dds" and run.config["seed"] == 3
    assert "edit/psnr_inside" in run.summary
