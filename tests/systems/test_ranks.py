"""Two processes on a tiny scene, over gloo: the same field in both, figures as of one, files written once."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from ids3d.experiment import SceneJob
from ids3d.systems.scene_run import run
from tests.systems.test_kills import write
from tests.systems.test_run import same, state

Tiny = Callable[..., SceneJob]
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
# How the first ends where another dies: of its own, or killed by Lightning, which looks every five seconds.
ENDED = (1, -signal.SIGKILL)

# What each process runs: the command, after which it writes down the field that it holds at the end of each training.
SPY = """
import os, sys, torch
sys.path.insert(0, os.getcwd())
torch.set_num_threads(1)
from ids3d import launch
from ids3d.systems import fitting, scene_phases
original, count = fitting.fit, [0]

def fit(module, *args, **kwargs):
    original(module, *args, **kwargs)
    file = f"{os.environ['SPY']}/{count[0]}-{os.environ.get('LOCAL_RANK', '0')}.pt"
    torch.save({k: v for k, v in module.renderer.state_dict().items() if isinstance(v, torch.Tensor)}, file)
    count[0] += 1

scene_phases.fit = fit
exec(os.environ.get("ALSO", ""))
sys.exit(launch.command())
"""

PICTURES = (
    *("edit=pictures", "edit.validate_every=0", "edit.log_every=1", "edit.rounds=2", "edit.steps=4"),
    *("edit.fit_steps=12", "edit.views_per_batch=3", "edit.rays_per_step=256", "edit.source=render"),
)
PULL_BACK = ("edit=pull-back", "edit.steps=4")


def started(words: Sequence[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own, which starts the others."""
    spy = folder / "spy.py"
    spy.write_text(SPY)
    outside = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR")}
    environment = {
        **outside,
        "SPY": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, str(spy), *words], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


def finished(words: Sequence[str], folder: Path, **environment: str) -> tuple[int, str]:
    """Its exit code, and what all processes said."""
    process = started(words, folder, **environment)
    _, said = process.communicate(timeout=600)
    return process.returncode, said


@pytest.mark.parametrize("way", [PICTURES, PULL_BACK], ids=["pictures", "pull-back"])
def test_two_processes_make_one_field(tiny: Tiny, tmp_path: Path, way: tuple[str, ...]) -> None:
    settings = ("tracking=csv", "reconstruct.steps=20", "reconstruct.validate_every=10")
    one = tiny(*settings, *way, "tag=one")  # as many steps: so few are limited by their length, not by noise
    figures = run(one)
    job = tiny(*settings, *way, "devices=2", "device=cpu")
    code, said = finished(["--config", str(write(job, tmp_path))], tmp_path)
    assert code == 0, said
    for training in (0, 1):
        a, b = (torch.load(tmp_path / f"{training}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert same(a, b), training  # the occupancy grids too
    assert same(state(job), a)
    both = json.loads((job.folder / "metrics.json").read_text())
    assert both.keys() == figures.keys()
    for name in ("reconstruction/psnr", "source/psnr", "edit/psnr_inside", "edit/psnr_outside"):
        assert both[name] == pytest.approx(figures[name], abs=1.0), name
    # Once: one start, one row for each step, one line of each.
    assert len(json.loads((job.folder / "provenance.json").read_text())) == 1
    with (job.folder / "metrics.csv").open(newline="") as file:
        rows = [(row["phase"], row["step"]) for row in csv.DictReader(file) if not row["reconstruct/psnr"]]
    assert rows == sorted(set(rows), key=rows.index)
    assert said.count("reconstructing: 20/20") == 1 and said.count("evaluating: 2/2") == 1
    assert not list(Path(job.output).rglob("*interrupted*")) and not list(
        Path(job.output).rglob(".unfinished*")
    )


def test_views_are_shared_out(tiny: Tiny, tmp_path: Path) -> None:
    """Each view is guided by one process alone, with the noise that it has in one process."""
    also = """
from ids3d.models.guidance.distillation import Distillation
from ids3d.systems.edit_scene.pictures import EditThroughPictures
guide = EditThroughPictures.guide

def noted(self, step):
    with open(f"{os.environ['SPY']}/views-{self.trainer.global_rank}.txt", "a") as file:
        print(step.round, step.number, *step.views, file=file)
    return guide(self, step)

EditThroughPictures.guide = noted
"""
    job = tiny(*PICTURES, "devices=2", "device=cpu", "edit.views_per_batch=4", "edit.fit_steps=1")
    code, said = finished(["--config", str(write(job, tmp_path))], tmp_path, ALSO=also)
    assert code == 0, said
    seen = [(tmp_path / f"views-{rank}.txt").read_text().split("\n")[:-1] for rank in (0, 1)]
    for rank, views in ((0, "0 1 2 3"), (1, "4 5 6 7")):
        assert seen[rank] == [f"{r} {k} {views}" for r in range(2) for k in range(2)]


def dying(rank: int) -> str:
    """What makes a process die of SIGKILL in the third step of an edit."""
    return f"""
import signal
from ids3d.systems.edit_scene.pull_back import EditScene
step = EditScene.training_step

def dies(self, *args):
    if self.global_step == 2 and self.trainer.global_rank == {rank}:
        open(f"{{os.environ['SPY']}}/died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args)

EditScene.training_step = dies
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_ends_the_run(tiny: Tiny, tmp_path: Path, rank: int) -> None:
    job = tiny(*PULL_BACK, "devices=2", "device=cpu")
    process = started(["--config", str(write(job, tmp_path))], tmp_path, ALSO=dying(rank))
    while not (tmp_path / "died").exists():
        assert process.poll() is None
        time.sleep(0.1)
    _, said = process.communicate(timeout=60)  # until all that write there have ended
    assert process.returncode in (ENDED if rank == 1 else [-signal.SIGKILL]), said
    if process.returncode == 1 or rank == 0:
        assert "error: another process of this run has ended" in said
    assert "Traceback" not in said


def test_it_goes_on_to_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    job = tiny(*PULL_BACK, "save_minutes=1e-9", "devices=2", "device=cpu")
    code, _ = finished(["--config", str(write(job, tmp_path))], tmp_path, ALSO=dying(1))
    assert code in ENDED
    code, said = finished(["--resume", str(job.folder)], tmp_path)
    assert code == 0, said
    whole = tiny(*PULL_BACK, "devices=2", "device=cpu", f"output={tmp_path / 'whole'}")
    assert finished(["--config", str(write(whole, tmp_path))], tmp_path)[0] == 0
    assert same(state(job), state(whole))


def test_a_stop_that_one_of_them_is_asked_for_stops_all(tiny: Tiny, tmp_path: Path) -> None:
    also = """
import signal
from ids3d.systems.reconstruct.rays import Reconstruct
step = Reconstruct.training_step

def asked(self, *args):
    if self.global_step == 3 and self.trainer.global_rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *args)

Reconstruct.training_step = asked
"""
    job = tiny("devices=2", "device=cpu", "tag=")
    code, said = finished(["--config", str(write(job, tmp_path))], tmp_path, ALSO=also)
    assert code == 143 and said.count("stopped after step 4 of 12, saved to") == 1 and "Traceback" not in said
    (folder,) = (Path(job.output) / job.name).iterdir()  # one tag
    assert (folder / "reconstruction" / "interrupted.ckpt").exists()


def test_what_is_wrong_is_said_once(tiny: Tiny, tmp_path: Path) -> None:
    job = tiny("devices=2", "device=cpu")
    (job.folder / "metrics.json").parent.mkdir(parents=True)
    (job.folder / "metrics.json").write_text("{}")
    code, said = finished(["--config", str(write(job, tmp_path))], tmp_path)
    assert code == 2 and said.count("error: ") == 1 and "Traceback" not in said
