"""A run that is killed, wherever it stands, goes on to the end that it would have come to, to the bit."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ids3d.experiment import SceneJob
from tests.systems.processes import finish
from tests.systems.test_run import same, state

# Saved after every step, validated, logged and filmed.
SETTINGS = (
    "tracking=csv",
    "save_minutes=1e-9",
    "reconstruct.refine_at=[0.5]",
    "reconstruct.validate_every=5",
    "edit.steps=6",
    "edit.validate_every=2",
    "evaluate.film_frames=3",
)


@pytest.fixture(scope="module")
def whole(tiny_in: Callable[..., SceneJob], tmp_path_factory: pytest.TempPathFactory) -> SceneJob:
    """A run that is not killed."""
    root = tmp_path_factory.mktemp("whole")
    job = tiny_in(root / "out", *SETTINGS)
    assert finish(words(job, root), root / "said") == 0
    return job


def write(job: SceneJob, folder: Path) -> Path:
    """The job's config as a file."""
    file = folder / "job.yaml"
    file.write_text(job.to_yaml(), encoding="utf-8")
    return file


def words(job: SceneJob, folder: Path) -> list[str]:
    """What to type to start the job, or to go on with it."""
    begun = (job.folder / "config.yaml").exists()
    return ["--resume", str(job.folder)] if begun else ["--config", str(write(job, folder))]


def assert_equal(job: SceneJob, whole: SceneJob) -> None:
    """Field, figures, images and log are those of the other run; nothing half-written is left."""
    assert same(state(job), state(whole))
    figures, expected = (json.loads((j.folder / "metrics.json").read_text()) for j in (job, whole))
    assert figures.keys() == expected.keys()
    for name, value in expected.items():
        assert "seconds" in name or "memory" in name or figures[name] == value, name
    for image in (whole.folder / "renders").iterdir():
        assert (job.folder / "renders" / image.name).read_bytes() == image.read_bytes()
    rows, expected_rows = (
        list(csv.DictReader((j.folder / "metrics.csv").open(newline=""))) for j in (job, whole)
    )
    assert rows == expected_rows
    left = [p.name for p in Path(job.output).rglob("*") if "unfinished" in p.name or "interrupted" in p.name]
    assert left == []


def test_a_kill_in_passing_and_one_while_a_checkpoint_is_written(
    whole: SceneJob, tiny_in: Callable[..., SceneJob], tmp_path: Path
) -> None:
    job = tiny_in(tmp_path / "out", *SETTINGS)
    for place in (
        ("ids3d.provenance:_write_starts", 1),  # in its first second
        ("ids3d.systems.edit_scene.pull_back:EditScene.training_step", 3),
        ("torch:save", 2),
    ):
        assert finish(words(job, tmp_path), tmp_path / "said", kill_at=place) == -signal.SIGKILL, place
    assert finish(words(job, tmp_path), tmp_path / "said") == 0
    assert_equal(job, whole)
