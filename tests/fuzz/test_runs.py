"""What runs leave, damaged or forged: checkpoints, figures, logs and configs are read, or refused in one line."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ids3d import provenance
from ids3d.experiment import Job, load, load_saved
from ids3d.provenance import earlier_starts, note_seconds, record
from ids3d.systems.fields import load_field, restore, save_field
from ids3d.systems.image_run import read_result
from ids3d.systems.resuming import ResumeCheckpoint
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import load_tensors, read_figures, write_json
from ids3d.tabletop.world import world_of
from ids3d.tracking import Tracking
from tests.fuzz.hostile import VALUES, Payload, damaged, fuzz, verdict

STATE = {"seconds": 1.0, "settings": "a", "renderer": {"w": torch.arange(64.0)}}
FIGURES = {"edit/psnr": 12.5, "guidance": "ids", "time/total_seconds": 3.0, "edit/clip": None}


def saved(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


@fuzz
@given(damaged(saved(STATE)) | st.binary())
def test_damaged_checkpoints(tmp_path: Path, content: bytes) -> None:
    """What is read of a damaged file is what was saved: a changed number does not slip through."""
    file = tmp_path / "last.ckpt"
    file.write_bytes(content)
    state = verdict(lambda: load_tensors(file, STATE, "delete it", "cpu"), tmp_path)
    if state is not None:
        assert torch.equal(state["renderer"]["w"], torch.arange(64.0)) and state["seconds"] == 1


class Table(torch.nn.Module):
    """A field of a few numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.arange(12.0).view(3, 4))
        self.register_buffer("seen", torch.tensor([True, False]))
        self.register_buffer("scalar", torch.tensor(2.5))

    def get_extra_state(self) -> tuple[int, int]:
        return (3, 4)

    def set_extra_state(self, state: Any) -> None:
        self.size = tuple(state)


ABOUT = {"settings": "a", "steps": 3, "seconds": 1.5}


def field(folder: Path) -> Path:
    file = folder / "last.safetensors"
    save_field(file, Table(), ABOUT)  # type: ignore[arg-type]
    return file


def test_a_field_comes_back_as_it_was(tmp_path: Path) -> None:
    state, about = load_field(field(tmp_path), "delete it", torch.device("cpu"))
    table = Table()
    torch.nn.init.zeros_(table.w)
    restore(table, state, tmp_path, "delete it")  # type: ignore[arg-type]
    assert torch.equal(table.w, Table().w) and table.size == (3, 4) and about == ABOUT


@fuzz
@given(data=st.data())
def test_damaged_fields(tmp_path: Path, data: st.DataObject) -> None:
    """What is read of a damaged file is what was saved: a changed number does not slip through."""
    file = field(tmp_path)
    file.write_bytes(data.draw(damaged(file.read_bytes()) | st.binary() | st.just(saved(STATE))))
    found = verdict(lambda: load_field(file, "delete it", torch.device("cpu")), tmp_path)
    if found is not None:
        assert found[1] == ABOUT and torch.equal(found[0]["w"], Table().w)


def forged() -> dict[str, bytes]:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(Payload()))
        archive.writestr("a/version", "3\n")
    return {
        "a payload": saved({**STATE, "seconds": Payload()}),
        "an old payload": pickle.dumps(Payload()),
        "a payload in a zip": stream.getvalue(),
        "a class": saved({**STATE, "settings": Path("x")}),
        "a list": saved([1]),
        "no keys": saved({}),
    }


@pytest.mark.parametrize("what", forged())
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_checkpoints_that_would_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "last.ckpt").write_bytes(forged()[what])
    assert verdict(lambda: load_tensors(tmp_path / "last.ckpt", STATE, "delete it", "cpu"), tmp_path) is None


@pytest.mark.parametrize("value", [None, "x", [], {}, math.nan, -1, "s"], ids=str)
@pytest.mark.parametrize(
    "key", ["global_step", "seconds", "settings", "callbacks", "state_dict", "optimizer_states"]
)
def test_checkpoints_in_passing_with_foreign_values(tmp_path: Path, key: str, value: Any) -> None:
    with GracefulStop() as stop:
        file = tmp_path / "interrupted.ckpt"
        resume = ResumeCheckpoint(stop, file, "s", "")
        own = {"settings": "s", "seconds": 1.0} | ({key: value} if key in ("seconds", "settings") else {})
        outer = {
            "callbacks": {resume.state_key: own},
            "global_step": 3,
            "state_dict": {},
            "optimizer_states": [],
        }
        file.write_bytes(saved(outer | ({key: value} if key in outer else {})))
        found = verdict(lambda: resume.found, tmp_path)
    assert found is None or (0 <= resume.steps_done < math.inf)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.just(10**400) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NOISE = (
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.sampled_from(
        [b"[" * 100_000, b"9" * 10_000, b'{"a": ' * 50_000, b"null", b"[{}]", b'[{"seconds": 1e999}]']
    )
)


@fuzz
@given(NOISE | damaged(json.dumps(FIGURES).encode()), st.dictionaries(st.text(), JSON, max_size=3))
def test_any_figures(tmp_path: Path, noise: bytes, values: dict[str, Any]) -> None:
    file = tmp_path / "result.json"
    for content in (noise, json.dumps(values).encode()):
        file.write_bytes(content)
        figures = verdict(lambda: read_figures(file, "delete it"), tmp_path)
        read_result(tmp_path)
        if figures is not None:
            write_json(tmp_path / "metrics.json", figures)
            assert read_figures(tmp_path / "metrics.json", "") == figures
            (tmp_path / "metrics.json").unlink()


@fuzz
@given(NOISE | damaged(b'[{"settings": "a", "seconds": 2.5, "git": null}]'))
def test_any_provenance(tmp_path: Path, noise: bytes) -> None:
    (tmp_path / "provenance.json").write_bytes(noise)
    earlier = earlier_starts(tmp_path)
    assert 0 <= earlier.seconds < math.inf
    note_seconds(tmp_path, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "describe", dict)  # slow: all packages
        record(load([], ["name=x"]), "b", tmp_path)
    now = earlier_starts(tmp_path)
    assert now.settings == "b" and now.seconds >= 0


@fuzz
@given(NOISE | damaged(b'{"world": "former", "size": 64}'))
def test_any_world(tmp_path: Path, noise: bytes) -> None:
    (tmp_path / "world.json").write_bytes(noise)
    world = verdict(lambda: world_of(tmp_path), tmp_path)
    assert world is None or world[1] > 0


LOG = b"loss,phase,step\n0.5,editing,0\n0.25,editing,1\n1,reconstructing,1\n"


@fuzz
@given(st.binary() | st.text().map(str.encode) | damaged(LOG))
def test_any_log_is_gone_on_with_or_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv.damaged").unlink(missing_ok=True)
    file = tmp_path / "metrics.csv"
    file.write_bytes(content)
    tracking = Tracking(load([], ["name=x", "tracking=csv"]), tmp_path).open(resume=True)
    tracking.begin("editing", 1)
    tracking.log_figures({"loss": 0.125, "new": 1.0}, 1)
    tracking.close()
    with file.open(encoding="utf-8", newline="") as opened:
        last = list(csv.DictReader(opened))[-1]
    assert (last["loss"], last["new"], last["phase"], last["step"]) == ("0.125", "1.0", "editing", "1")
    aside = tmp_path / "metrics.csv.damaged"
    assert not aside.exists() or aside.read_bytes() == content


def scene_job(folder: Path) -> Job:
    return load([], ["name=x", "tag=t", f"output={folder}"])


@fuzz
@given(data=st.data())
def test_damaged_configs_of_runs(tmp_path: Path, data: st.DataObject) -> None:
    job = scene_job(tmp_path)
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "config.yaml").write_bytes(data.draw(damaged(job.to_yaml().encode())))
    found = verdict(lambda: load_saved(job.folder), tmp_path)
    if found is not None:
        verdict(found.check)
        assert found.folder == job.folder  # whatever the file calls output, name and tag


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("key", ["guidance", "output", "tag"])
def test_configs_of_runs_with_hostile_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    job = scene_job(tmp_path)
    job.folder.mkdir(parents=True)
    lines = job.to_yaml().splitlines(keepends=True)
    changed = [f"{key}: {value}\n" if line.startswith(f"{key}:") else line for line in lines]
    (job.folder / "config.yaml").write_text("".join(changed), encoding="utf-8", errors="surrogateescape")
    found = verdict(lambda: load_saved(job.folder), tmp_path)
    if found is not None:
        verdict(found.check)
        assert found.folder == job.folder and not found.names_code


KINDS: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_something_else_in_the_place_of_a_file(tmp_path: Path, kind: str) -> None:
    for name in ("a.ckpt", "result.json", "provenance.json", "config.yaml"):
        KINDS[kind](tmp_path / name)
    KINDS[kind](tmp_path / "last.safetensors")
    cpu = torch.device("cpu")
    assert verdict(lambda: load_field(tmp_path / "last.safetensors", "", cpu), tmp_path) is None
    assert verdict(lambda: load_tensors(tmp_path / "a.ckpt", (), "", "cpu"), tmp_path) is None
    assert verdict(lambda: read_figures(tmp_path / "result.json", ""), tmp_path) is None
    assert verdict(lambda: load_saved(tmp_path), tmp_path) is None
    assert read_result(tmp_path) == {} and dataclasses.astuple(earlier_starts(tmp_path)) == ("", 0.0)
