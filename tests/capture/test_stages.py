"""A stage's result is kept, gone on with, or made anew, by what it is made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from ids3d.capture.stages import stage


def test_what_is_whole_is_kept_and_what_is_of_other_inputs_is_made_anew(tmp_path: Path) -> None:
    made: list[list[str]] = []

    def make(folder: Path) -> None:
        made.append(sorted(p.name for p in folder.iterdir()))
        (folder / "result").write_text(str(len(made)))

    first = stage(tmp_path / "one", {"size": 1}, make)
    assert stage(tmp_path / "one", {"size": 1}, make) == first
    assert len(made) == 1
    assert stage(tmp_path / "one", {"size": 2}, make) != first
    assert made[1] == ["begun.json"]  # nothing of the former result
    assert (tmp_path / "one" / "result").read_text() == "2"


def test_what_was_stopped_goes_on_from_what_it_left(tmp_path: Path) -> None:
    def stopped(folder: Path) -> None:
        (folder / "part").write_text("half")
        raise KeyboardInterrupt

    seen: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "one", {"size": 1}, stopped)
    stage(tmp_path / "one", {"size": 1}, lambda folder: seen.append((folder / "part").exists()))
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "two", {"size": 1}, stopped)
    stage(tmp_path / "two", {"size": 2}, lambda folder: seen.append((folder / "part").exists()))
    assert seen == [True, False]


def test_a_damaged_note_is_none(tmp_path: Path) -> None:
    made: list[Path] = []
    stage(tmp_path / "one", {}, made.append)
    (tmp_path / "one" / "done.json").write_text("{")
    stage(tmp_path / "one", {}, made.append)
    assert len(made) == 2
