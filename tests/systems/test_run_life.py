"""The life of a run: nothing that is finished is lost, and nothing is written before everything is checked."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from ids3d import launch
from ids3d.cli import run_command
from ids3d.errors import Interrupted, UserError
from ids3d.experiment import SceneJob, load_saved
from ids3d.files import locked
from ids3d.systems.edit_scene.pictures import EditThroughPictures
from ids3d.systems.edit_scene.pull_back import EditScene
from ids3d.systems.fields import _digest
from ids3d.systems.reconstruct.rays import Reconstruct
from ids3d.systems.saved_run import load_run
from ids3d.systems.scene_run import run
from tests.systems.processes import finish
from tests.systems.test_run import same, state, stop_in

Tiny = Callable[..., SceneJob]


@pytest.fixture(scope="module")
def finished_once(tiny_in: Tiny, tmp_path_factory: pytest.TempPathFactory) -> SceneJob:
    job = tiny_in(tmp_path_factory.mktemp("finished") / "out", "tracking=csv")
    run(job)
    return job


@pytest.fixture
def finished(finished_once: SceneJob, tmp_path: Path) -> SceneJob:
    """A finished run, a copy for each test."""
    output = shutil.copytree(finished_once.output, tmp_path / "out")
    return dataclasses.replace(finished_once, output=str(output))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder and below it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def changed(job: SceneJob, **settings: Any) -> SceneJob:
    """The job with other settings of its edit."""
    node = type(job.edit.node)({**job.edit.node, **settings}, job.edit.node.origins)
    return dataclasses.replace(job, edit=dataclasses.replace(job.edit, node=node))


def stopped(job: SceneJob, owner: Any, call: int, number: int = signal.SIGINT) -> Interrupted:
    """Run a job and stop it in the call-th training step of a system."""
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, owner, "training_step", call, number)
        with pytest.raises(Interrupted) as caught:
            run(job)
    return caught.value


# What is finished


def test_a_finished_run_is_not_touched_by_resume(
    finished: SceneJob, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(Path(finished.output))
    with caplog.at_level(logging.INFO, "ids3d"):
        assert run_command(launch.main, ["--resume", str(finished.folder)]) == 0
    assert f"{finished.folder} is finished, and stays as it is" in caplog.text
    assert "PSNR to the true edit inside its mask, dB" in capsys.readouterr().out
    # Nor where only what it was evaluated with is another.
    assert run_command(launch.main, ["--resume", str(finished.folder), "evaluate.film_fps=5"]) == 0
    assert contents(Path(finished.output)) == before


@pytest.mark.parametrize("settings", [("edit.steps=3",), ("edit.steps=6", "edit.lr=0.01"), ("guidance=dds",)])
def test_what_is_not_more_of_the_same_is_refused_with_the_reason(
    finished: SceneJob, settings: tuple[str, ...]
) -> None:
    before = contents(Path(finished.output))
    with pytest.raises(UserError, match=r"is finished.*only more steps of the same edit.*tag=\.\.\."):
        launch.main(["--resume", str(finished.folder), *settings])
    assert contents(Path(finished.output)) == before


MORE = {
    "pull-back": (("edit.steps=4", "edit.decay=false"), ("edit.steps=7",)),
    "pictures": (("edit.rounds=1", "edit.steps=2", "edit.fit_steps=3"), ("edit.rounds=3", "edit.steps=6")),
}


MADE = {"pull-back": 3, "pictures": 2 * (2 + 3)}  # of the steps to come; 8 views are one batch


@pytest.mark.parametrize("way", MORE)
@pytest.mark.parametrize("killed", [False, True])
def test_more_steps_go_on_from_where_a_finished_run_ended(tiny: Tiny, way: str, killed: bool) -> None:
    """Where nothing depends on how many there are, to the bits of a run that had them from the start."""
    few, more = MORE[way]
    flat = (
        "tracking=csv",
        f"edit={way}",
        "guidance=dds",
        "guidance.t_range_end=null",
        "guidance.attention=none",
    )
    job = tiny(*flat, *few)
    run(job)
    before, system = contents(job.folder), EditScene if way == "pull-back" else EditThroughPictures
    if killed:
        with pytest.MonkeyPatch.context() as patch:
            stop_in(patch, system, "training_step", 2, signal.SIGINT)
            with pytest.raises(Interrupted, match=f"--resume {job.folder}$"):
                launch.main(["--resume", str(job.folder), *more])
        assert contents(job.folder) == before
        launch.main(["--resume", str(job.folder)])
    else:
        with pytest.MonkeyPatch.context() as patch:
            made = counted(patch, system, "training_step")
            launch.main(["--resume", str(job.folder), *more])
        assert len(made) == MADE[way]
    assert [p.name for p in job.folder.parent.iterdir()] == [job.tag]

    whole = tiny(*flat, *few, *more, "tag=whole")
    run(whole)
    assert same(state(job), state(whole))
    assert logged_steps(job) == logged_steps(whole)
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (job.folder, whole.folder)]
    names = [name for name in figures[1] if not re.search("seconds|memory", name)]
    assert [figures[0][name] for name in names] == [figures[1][name] for name in names]
    assert load_saved(job.folder).to_mapping()["edit"] == whole.to_mapping()["edit"]


def logged_steps(job: SceneJob) -> list[str]:
    """The steps of the rows in a run's metrics.csv."""
    with (job.folder / "metrics.csv").open(newline="") as file:
        return [row["step"] for row in csv.DictReader(file) if row["phase"] != "reconstructing"]


def counted(patch: pytest.MonkeyPatch, owner: Any, method: str) -> list[None]:
    """A list that grows with each call of a method."""
    calls: list[None] = []
    original = getattr(owner, method)

    def call(*args: Any) -> Any:
        calls.append(None)
        return original(*args)

    patch.setattr(owner, method, call)
    return calls


@pytest.mark.parametrize("kept", [None, b"", b"PK\x03\x04 not a checkpoint"])
def test_a_run_that_kept_no_end_is_not_gone_on_from(finished: SceneJob, kept: bytes | None) -> None:
    end = finished.folder / "checkpoints" / "finished.ckpt"
    end.unlink() if kept is None else end.write_bytes(kept)
    before = contents(Path(finished.output))
    said = (
        r"there is no .*finished\.ckpt.*tag=.*--overwrite"
        if kept is None
        else r"finished\.ckpt is damaged.*delete it"
    )
    with pytest.raises(UserError, match=said):
        launch.main(["--resume", str(finished.folder), "edit.steps=6"])
    assert {k: v for k, v in contents(Path(finished.output)).items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }


def test_the_same_tag_is_refused_with_what_to_do(finished: SceneJob) -> None:
    before = contents(Path(finished.output))
    for job in (finished, changed(finished, lr=0.01)):
        with pytest.raises(UserError, match=r"holds a finished run.*tag=.*--overwrite"):
            run(job)
    assert contents(Path(finished.output)) == before


def test_the_old_result_goes_when_the_new_one_is_finished(
    finished: SceneJob, capsys: pytest.CaptureFixture[str]
) -> None:
    other, old = changed(finished, lr=0.01), contents(finished.folder)
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, EditScene, "training_step", 2, signal.SIGINT)
        with pytest.raises(Interrupted, match=f"--resume {finished.folder}$"):
            run(other, overwrite=True)
    assert contents(finished.folder) == old
    with pytest.raises(UserError, match="has other settings"):  # a third one
        run(changed(finished, lr=0.02), overwrite=True)
    assert launch.run_folder(f"{finished.folder}.overwriting") == finished.folder
    assert run_command(launch.main, ["--resume", str(finished.folder)]) == 0
    said = capsys.readouterr().out
    assert str(finished.folder) in said and ".overwriting" not in said
    assert [p.name for p in finished.folder.parent.iterdir()] == [finished.folder.name]
    assert load_saved(finished.folder).to_mapping() == other.to_mapping()
    whole = dataclasses.replace(other, tag="whole")
    run(whole)
    assert same(state(finished), state(whole))


def test_a_kill_while_the_new_result_takes_its_place_loses_neither(finished: SceneJob) -> None:
    for name in ("new", "old"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "rename", killed_at(2 if name == "new" else 1))
            with pytest.raises(KeyboardInterrupt):
                run(changed(finished, lr=0.01), overwrite=True)
        new = finished.folder.with_name(f"{finished.folder.name}.overwriting")
        assert (new / "metrics.json").exists()
        kept = finished.folder if name == "old" else finished.folder.with_name("t.replaced")
        assert (kept / "metrics.json").exists()
        with pytest.raises(UserError, match="holds a finished run"):
            run(finished)
        assert load_saved(finished.folder).edit.settings().lr == 0.01
        assert [p.name for p in finished.folder.parent.iterdir()] == [finished.folder.name]


def killed_at(call: int) -> Callable[[Path, Path], Path]:
    """Path.rename, which raises KeyboardInterrupt at its call-th call."""
    calls, original = [0], Path.rename

    def rename(self: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return original(self, target)

    return rename


# Nothing is written before everything is checked


def test_a_refused_start_leaves_the_run_that_it_refused_as_it_was(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny()
    stopped(job, EditScene, 2)
    before = contents(job.folder)
    for refused in ("edit.lr=0.01", "prompt.target=a green cube", "guidance=dds", "evaluate.clip=/nowhere"):
        with pytest.raises(UserError, match=r"other settings|no CLIP model at /nowhere"):
            run(tiny(refused))
        assert contents(job.folder) == before
    # Where it is not known what the run was started with, the checkpoint is what refuses.
    (job.folder / "provenance.json").unlink()
    with pytest.raises(UserError, match=r"interrupted.ckpt is of a run with other settings"):
        run(tiny("edit.lr=0.01"))
    before.pop("provenance.json")
    assert contents(job.folder) == before
    run(job, resume=True)


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("evaluate.clip=/nonexistent", "no CLIP model at /nonexistent"),
        ("evaluate.film_frames=2", "no film can be written"),
        ("prompt.target=", "empty"),
        ("guidance=collections:Counter", "Config"),
        ("edit=latents", "edit-scene"),
    ],
)
def test_errors_come_before_the_work(
    tiny: Tiny, setting: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reconstruct, "training_step", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", no_ffmpeg)
    with pytest.raises(UserError, match=part):
        run(tiny(setting))
    assert not Path(tiny().output).exists()


def no_ffmpeg() -> str:
    raise RuntimeError("No ffmpeg exe could be found.")


def test_images_too_oblong_for_the_prior_are_found_before_the_work(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reconstruct, "training_step", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(EditScene, "__init__", lambda *_: raise_user_error())
    with pytest.raises(UserError, match="too oblong"):
        run(tiny())
    assert not Path(tiny().output).exists()


def raise_user_error() -> None:
    raise UserError("too oblong")


# Stopped and killed


def rows(job: SceneJob) -> list[dict[str, str]]:
    with (job.folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_go_on_without_a_gap(tiny: Tiny, tmp_path: Path) -> None:
    """Whatever it was stopped by, and where: validations, and the numbers of the steps, too."""
    settings = ("tracking=csv", "reconstruct.validate_every=3", "edit.validate_every=2", "edit.steps=6")
    whole = tiny(*settings, f"output={tmp_path / 'whole'}")
    run(whole)
    job = tiny(*settings)
    for owner, call, number in (
        (Reconstruct, 3, signal.SIGINT),  # where a validation is due
        (Reconstruct, 2, signal.SIGTERM),
        (EditScene, 2, signal.SIGTERM),
        (EditScene, 3, signal.SIGINT),
    ):
        stopped(job, owner, call, number)
    run(job)
    assert rows(job) == rows(whole)
    assert same(state(job), state(whole))


def test_times_go_on_without_a_gap(tiny: Tiny) -> None:
    job = tiny()
    stopped(job, EditScene, 2)
    figures = run(job)
    starts = json.loads((job.folder / "provenance.json").read_text())
    first, second = (start["seconds"] for start in starts)
    assert first > float(figures["reconstruction/seconds"]) > 0
    # What comes after the figures are complete, such as the report, is not in them.
    assert first + float(figures["edit/seconds"]) / 2 < float(figures["time/total_seconds"]) <= first + second


def test_the_last_two_checkpoints_are_kept_and_the_older_stands_in(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    job = tiny("save_minutes=1e-9", "tracking=csv")
    stopped(job, EditScene, 3)
    newer, older = (job.folder / "checkpoints" / f"interrupted{n}.ckpt" for n in ("", "-older"))
    steps = [torch.load(path, weights_only=True)["global_step"] for path in (newer, older)]
    assert steps == [3, 3] or steps == [3, 2]
    newer.write_bytes(newer.read_bytes()[:1000])
    run(job)
    assert f"{newer} is damaged" in caplog.text and f"going on from {older}, after step" in caplog.text
    whole = tiny("tracking=csv", "tag=whole")
    run(whole)
    assert same(state(job), state(whole))
    edits = [row["step"] for row in rows(job) if row["phase"] == "editing"]
    assert edits == ["0", "1", "2", "3"]
    assert not list(job.folder.rglob("interrupted*"))


def test_sigterm_has_an_exit_code_of_its_own(tiny: Tiny) -> None:
    assert stopped(tiny(), Reconstruct, 2, signal.SIGTERM).exit_code == 143
    assert stopped(tiny(), EditScene, 2, signal.SIGINT).exit_code == 130


def test_sigterm_in_a_validation_saves(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny("edit.validate_every=2")
    stop_in(monkeypatch, EditScene, "validation_step", 1, signal.SIGTERM)
    with pytest.raises(Interrupted, match="step 2 of 4"):
        run(job)
    assert (job.folder / "checkpoints" / "interrupted.ckpt").exists()


def test_a_second_ctrl_c_in_a_training_is_130_with_a_word(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job, original = tiny(), Reconstruct.training_step

    def twice(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(Reconstruct, "training_step", twice)
    assert run_command(lambda _: run(job), []) == 130
    assert "stopped at once" in capsys.readouterr().err


def test_the_checkpoint_that_the_message_names_is_resumed(tiny: Tiny) -> None:
    job = tiny()
    for owner in (Reconstruct, EditScene):
        message = str(stopped(job, owner, 2))
        named = message.split("saved to ")[1].split(". To go on")[0]
        assert launch.run_folder(named) == job.folder
    assert run_command(launch.main, ["--resume", named]) == 0
    assert (job.folder / "metrics.json").exists()


# Damaged files


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("hello\n")
    elif how == "foreign" and path.suffix == ".json":
        path.write_text("[1, [2]]")
    elif how == "foreign":
        torch.save({"weight": torch.zeros(3)}, path)


HOW = ("truncated", "empty", "text", "foreign")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "name",
    ["last.safetensors", "field.safetensors", "reconstruction/metrics.json", "metrics.json", "config.yaml"],
)
def test_a_damaged_file_is_named_with_what_to_do(
    finished: SceneJob, name: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    (reconstruction,) = (Path(finished.output) / "reconstructions").iterdir()
    path = {
        "last.safetensors": finished.folder / "checkpoints" / "last.safetensors",
        "field.safetensors": reconstruction / "field.safetensors",
        "reconstruction/metrics.json": reconstruction / "metrics.json",
    }.get(name, finished.folder / name)
    if name == "config.yaml" and how == "foreign":
        path.write_text("a: 1\n")
    else:
        damage(path, how)
    option = "--resume" if name == "metrics.json" else "--test"
    before = contents(Path(finished.output))
    with pytest.raises(UserError) as caught:
        launch.main([option, str(finished.folder)])
    assert path.name in str(caught.value) and "\n" not in str(caught.value)
    if name != "config.yaml":
        assert "is damaged, or not what ids3d wrote there: " in str(caught.value)
    assert contents(Path(finished.output)) == before


def test_a_cut_config_does_not_run_on_defaults(finished: SceneJob) -> None:
    config = finished.folder / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    for kept in range(1, len(lines)):
        config.write_text("".join(lines[:kept]))
        with pytest.raises(UserError):
            load_saved(finished.folder)
    config.write_text("".join(lines)[:-3])
    with pytest.raises(UserError, match="damaged"):
        load_saved(finished.folder)
    config.write_text("".join(lines))
    assert load_saved(finished.folder).to_mapping() == finished.to_mapping()


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_checkpoint_in_passing_is_named(tiny: Tiny, how: str) -> None:
    job = tiny()
    stopped(job, EditScene, 2)
    checkpoint = job.folder / "checkpoints" / "interrupted.ckpt"
    damage(checkpoint, how)
    before = contents(job.folder)
    with pytest.raises(UserError, match=r"interrupted.ckpt is .*delete it"):
        run(job)
    assert contents(job.folder) == before
    checkpoint.unlink()
    run(job)


def forge(checkpoint: dict[str, Any], how: str) -> None:
    """Change what a checkpoint in passing holds; whose it is, it says rightly."""
    weights = checkpoint["state_dict"]
    key = next(key for key in weights if key.endswith("raw_appearance"))
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    if how == "a key less":
        del weights[key]
    elif how == "a key more":
        weights["foreign"] = torch.zeros(3)
    elif how == "another shape":
        weights[key] = weights[key][:, :2]
    elif how == "nan":
        weights[key] = weights[key] * math.nan
    elif how == "a later step":
        checkpoint["global_step"] = 10**6
    elif how == "another step":
        checkpoint["global_step"] += 1
    elif how == "other batches":
        progress["current"]["completed"] = "x"
    elif how == "no loops":
        checkpoint["loops"] = {}
    elif how == "an optimiser's rate":
        checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] = math.nan
    elif how == "no optimiser":
        checkpoint["optimizer_states"] = []
    elif how == "an optimiser of another shape":
        checkpoint["optimizer_states"][0]["state"] = {0: {"exp_avg": torch.zeros(5)}}
    elif how == "a watch":
        checkpoint["callbacks"]["Watch"] = {"skipped": "many"}


FORGED = (
    *("a key less", "a key more", "another shape", "nan", "a later step", "another step", "other batches"),
    *("no loops", "an optimiser's rate", "no optimiser", "an optimiser of another shape", "a watch"),
)


def test_a_forged_checkpoint_in_passing_is_refused_in_one_line(tiny: Tiny) -> None:
    job = tiny()
    stopped(job, EditScene, 2)
    file = job.folder / "checkpoints" / "interrupted.ckpt"
    content = file.read_bytes()
    for how in FORGED:
        file.write_bytes(content)
        checkpoint = torch.load(file, weights_only=True)
        forge(checkpoint, how)
        torch.save(checkpoint, file)
        forged = file.read_bytes()
        with pytest.raises(UserError, match=r"interrupted.ckpt is .*delete it, and the same command"):
            pytest.fail(f"{how}: {run(job)}")
        assert file.read_bytes() == forged, how
    file.write_bytes(content)
    run(job)


@pytest.mark.parametrize("how", ["nan", "steps", "no words", "old", "old nan"])
def test_an_edited_field_with_odd_contents(finished: SceneJob, how: str) -> None:
    file = finished.folder / "checkpoints" / "last.safetensors"
    with safetensors.safe_open(file, "pt") as opened:
        about = json.loads(opened.metadata()["about"])
        plain = json.loads(opened.metadata()["plain"])
    tensors = load_file(file)
    if "nan" in how:
        tensors["geometry.raw_density"][0] = math.nan
    if how == "steps":
        about["steps"] = -3
    words = {"about": json.dumps(about), "plain": json.dumps(plain)}
    words["digest"] = _digest(tensors, words)
    save_file(tensors, file, None if how == "no words" else words)
    if "old" in how:  # as torch wrote it
        torch.save({**about, "renderer": {**tensors, **plain}}, file.with_name("last.ckpt"))
        file.unlink()
        file = file.with_name("last.ckpt")
    if how == "old":
        assert load_run(finished.folder).edited.steps == about["steps"]
        return
    with pytest.raises(UserError, match=f"{file.name} is damaged, or not what ids3d wrote there: delete it"):
        launch.main(["--test", str(finished.folder)])


def test_a_field_that_torch_wrote_is_still_read(finished: SceneJob) -> None:
    (file,) = Path(finished.output).glob("reconstructions/*/field.safetensors")
    now = load_run(finished.folder).source.state_dict()
    torch.save(now, file.with_name("field.pt"))
    file.unlink()
    then = load_run(finished.folder).source.state_dict()
    assert all(torch.equal(value, then[name]) for name, value in now.items() if torch.is_tensor(value))


def test_a_damaged_provenance_does_not_stop_the_next_run(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    job = tiny("stage=reconstruct")
    stopped(job, Reconstruct, 2)
    (job.folder / "provenance.json").write_bytes(b"")
    run(job)
    assert "provenance.json is damaged" in caplog.text
    assert len(json.loads((job.folder / "provenance.json").read_text())) == 1


# Places that cannot be written


@pytest.mark.parametrize("place", ["README.md", "/proc/none", "/dev/null"])
def test_an_impossible_output_is_one_line(tiny: Tiny, place: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine\n")
    where = tmp_path / place
    with pytest.raises(
        UserError, match=r"cannot be written \(.*\): make room there, or choose another place"
    ):
        run(tiny(f"output={where}"))
    assert (tmp_path / "README.md").read_text() == "mine\n"


@pytest.mark.parametrize("size", [100_000, 20_000, 1000])
def test_a_disk_that_is_full_is_one_line(tiny: Tiny, size: int, tmp_path: Path) -> None:
    """The operating system refuses to make files larger than so many bytes."""
    job = tiny("tracking=csv", "save_minutes=1e-9")
    stopped(job, EditScene, 2)
    kept = {n: c for n, c in contents(job.folder).items() if n.startswith("checkpoints/")}
    words = ["--resume", str(job.folder)]
    assert finish(words, tmp_path / "said", largest=size) == 2
    said = [line for line in (tmp_path / "said").read_text().splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "cannot be written (File too large)" in said[0]
    assert not list(Path(job.output).rglob(".unfinished*"))
    now = contents(job.folder)
    assert all(now[name] == content for name, content in kept.items())
    run(job)


def test_a_full_disk_amid_a_checkpoint_leaves_the_one_before(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny("save_minutes=1e-9")
    original, calls = torch.save, [0]

    def full(*args: Any, **kwargs: Any) -> None:
        calls[0] += 1
        if calls[0] == 8:
            raise OSError(28, "No space left on device")
        original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(
            UserError, match=r"interrupted.ckpt cannot be written \(No space left on device\)"
        ):
            run(job)
    left = list(Path(job.output).rglob("*.ckpt"))
    assert sorted(p.name for p in left) == ["interrupted-older.ckpt", "interrupted.ckpt"]
    assert not list(Path(job.output).rglob(".unfinished*"))
    run(job)
    whole = tiny("tag=whole")
    run(whole)
    assert same(state(job), state(whole))


def test_data_that_vanishes_is_one_line(tiny: Tiny, scene_folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(scene_folder, tmp_path / "scene")
    job = tiny(f"data.root={root}")
    stopped(job, EditScene, 2)
    before = contents(job.folder)
    (root / "images" / "03.png").unlink()
    with pytest.raises(UserError, match="images"):
        run(job)
    shutil.rmtree(root)
    with pytest.raises(UserError, match="there is no folder"):
        run(job)
    assert contents(job.folder) == before
    # It may lie elsewhere now.
    run(load_saved(job.folder, overrides=[f"data.root={scene_folder}"]), resume=True)  # type: ignore[arg-type]


# Two processes


def test_two_processes_cannot_write_one_run(tiny: Tiny, tmp_path: Path) -> None:
    job = tiny()
    code = "import sys, time; from pathlib import Path; from ids3d.files import locked\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code, str(job.folder)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="is being written by another process"):
            run(job)
        assert [p.name for p in job.folder.iterdir()] == [".lock"]
    finally:
        other.kill()
        other.wait()
    run(job)  # the lock went with the process
    with locked(job.folder), pytest.raises(UserError, match="another process"):
        launch.main(["--test", str(job.folder)])
