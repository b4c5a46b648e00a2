"""Files appear whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ids3d.errors import UserError
from ids3d.files import atomic_write, locked


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a" / "b" / "c.npy") as file:
        assert file.suffix == ".npy" and not file.exists()
        file.write_text("x")
        assert not (tmp_path / "a" / "b" / "c.npy").exists()
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["c.npy"]
    assert (tmp_path / "a" / "b" / "c.npy").read_text() == "x"


@pytest.mark.parametrize(
    ("error", "seen"),
    [(OSError(28, "No space left on device"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_failure_in_the_middle_leaves_the_old_content_and_no_litter(
    tmp_path: Path, error: BaseException, seen: type[BaseException]
) -> None:
    (tmp_path / "c.txt").write_text("old")
    with (
        pytest.raises(seen, match=r"c.txt cannot be written \(No space|^$"),
        atomic_write(tmp_path / "c.txt") as file,
    ):
        file.write_text("ne")
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ["c.txt"]
    assert (tmp_path / "c.txt").read_text() == "old"


def test_a_folder_is_written_whole_and_never_over_another(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "scene") as folder:
        folder.mkdir()
        (folder / "a").touch()
    with pytest.raises(UserError, match="not empty"), atomic_write(tmp_path / "scene") as folder:
        folder.mkdir()
        (folder / "b").touch()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "scene"]


def test_a_file_has_the_rights_that_any_new_file_has(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "c.txt") as file:
        file.touch()
    assert (tmp_path / "c.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_two_processes_that_write_one_file_leave_one_of_the_two_contents(tmp_path: Path) -> None:
    code = """
import sys
from ids3d.files import atomic_write
for _ in range(200):
    with atomic_write(sys.argv[1]) as path, path.open("w") as file:
        for _ in range(10):
            file.write(sys.argv[2])
            file.flush()
"""
    file = tmp_path / "c.txt"
    file.write_text("a" * 10)
    writers = [subprocess.Popen([sys.executable, "-c", code, str(file), text]) for text in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        seen.add(file.read_text())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen | {file.read_text()} <= {"a" * 10, "b" * 10}
    assert [p.name for p in tmp_path.iterdir()] == ["c.txt"]


def test_a_lock_removes_what_a_killed_process_has_left(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from ids3d.files import atomic_write
with atomic_write(sys.argv[1]) as path:
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "run" / "deep" / "c.txt")]
    assert subprocess.run(command).returncode == -9
    assert len(list(tmp_path.rglob("c.txt"))) == 1
    with locked(tmp_path / "run"):
        assert not list(tmp_path.rglob("c.txt")) and not list(tmp_path.rglob(".unfinished*"))
        with pytest.raises(UserError, match="is being written by another process"), locked(tmp_path / "run"):
            pass
    with locked(tmp_path / "run"):  # it is free again
        pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"file/run cannot be written \(.*\)"),
        locked(tmp_path / "file" / "run"),
    ):
        pass
