"""A run that is killed, wherever it stands, goes on to the end that it would have come to, to the bit."""

from __future__ import annotations

import csv
import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ids3d.experiment import SceneJob
from tests.systems.processes import finish, start
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


PLACES = [
    ("ids3d.provenance:_write_starts", 1),  # in its first second
    ("torch:save", 2),  # its first checkpoint, after what it keeps in memory
    ("ids3d.systems.reconstruct.rays:Reconstruct.training_step", 4),
    ("ids3d.systems.reconstruct.rays:Reconstruct.validation_step", 2),
    ("ids3d.tracking.csv_file:write_rows", 1),  # metrics.csv gets new columns
    ("ids3d.systems.scene_phases:save_field", 1),  # the reconstructed field
    ("pathlib:Path.write_bytes", 1),  # while it is written, in a folder that runs share
    ("ids3d.systems.scene_phases:write_json", 1),  # its figures
    ("ids3d.systems.edit_scene.pull_back:EditScene.training_step", 1),
    ("ids3d.systems.edit_scene.pull_back:EditScene.training_step", 3),
    ("torch:save", 2),
    ("ids3d.systems.scene_edit_phases:save_field", 1),  # the edited field
    ("ids3d.systems.scene_edit_phases:SceneEditRun.evaluate", 1),
    ("ids3d.systems.evaluate.held_out:Evaluate._measure", 2),
    ("ids3d.images:to_bytes", 20),
    ("ids3d.systems.film:save_video", 1),
    ("ids3d.systems.scene_run:report_scene", 1),
    ("ids3d.systems.scene_run:write_json", 1),  # the run's figures, written last
]


@pytest.mark.slow
def test_killed_wherever_it_goes_on_to_the_same_end(
    whole: SceneJob, tiny_in: Callable[..., SceneJob], tmp_path: Path
) -> None:
    job = tiny_in(tmp_path / "out", *SETTINGS)
    for place in PLACES:
        assert finish(words(job, tmp_path), tmp_path / "said", kill_at=place) == -signal.SIGKILL, place
    assert finish(words(job, tmp_path), tmp_path / "said") == 0
    assert_equal(job, whole)


@pytest.mark.slow
def test_twenty_kills_at_random_moments(
    whole: SceneJob, tiny_in: Callable[..., SceneJob], tmp_path: Path
) -> None:
    begin = time.monotonic()
    assert finish(words(tiny_in(tmp_path / "timed", *SETTINGS), tmp_path), tmp_path / "said") == 0
    seconds = time.monotonic() - begin
    draw, kills, done = random.Random(0), 0, 0
    while kills < 20:
        job = tiny_in(tmp_path / f"out-{done}", *SETTINGS)
        code: int | None = None
        while code != 0:
            process = start(words(job, tmp_path), tmp_path / "said")
            process.join(draw.uniform(0, seconds))
            if kills < 20 and process.exitcode is None:
                process.kill()
                kills += 1
            process.join()
            code = process.exitcode
            assert code in (0, -signal.SIGKILL), (tmp_path / "said").read_text()
        assert_equal(job, whole)
        done += 1


PICTURES = (
    *(*SETTINGS, "edit=pictures", "edit.rounds=2", "edit.steps=4", "edit.views_per_batch=4"),
    *("edit.fit_steps=3", "edit.rays_per_step=256", "edit.log_every=1"),
)
PLACES_IN_PICTURES = [
    ("ids3d.systems.edit_scene.pictures:EditThroughPictures.guide", 3),
    ("torch:save", 2),
    ("ids3d.systems.edit_scene.pictures:EditThroughPictures.fit", 2),
    ("ids3d.systems.edit_scene.pictures:EditThroughPictures._edited", 1),
    ("ids3d.systems.edit_scene.pictures:EditThroughPictures.guide", 2),  # in the second round
    ("ids3d.systems.scene_edit_phases:save_field", 1),
]


@pytest.mark.slow
def test_killed_while_it_edits_pictures(tiny_in: Callable[..., SceneJob], tmp_path: Path) -> None:
    expected = tiny_in(tmp_path / "whole", *PICTURES)
    assert finish(words(expected, tmp_path), tmp_path / "said") == 0
    job = tiny_in(tmp_path / "out", *PICTURES)
    for place in PLACES_IN_PICTURES:
        assert finish(words(job, tmp_path), tmp_path / "said", kill_at=place) == -signal.SIGKILL, place
    assert finish(words(job, tmp_path), tmp_path / "said") == 0
    assert_equal(job, expected)


def test_a_kill_in_passing_and_one_while_a_checkpoint_is_written(
    whole: SceneJob, tiny_in: Callable[..., SceneJob], tmp_path: Path
) -> None:
    job = tiny_in(tmp_path / "out", *SETTINGS)
    for place in (PLACES[0], PLACES[9], ("torch:save", 2)):
        assert finish(words(job, tmp_path), tmp_path / "said", kill_at=place) == -signal.SIGKILL, place
    assert finish(words(job, tmp_path), tmp_path / "said") == 0
    assert_equal(job, whole)
