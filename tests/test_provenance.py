"""What is kept beside a run's outputs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ids3d.config import find_config
from ids3d.experiment import load
from ids3d.provenance import git_revision, record


def test_each_start_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["launch.py", "--config", "two words.yaml"])
    job = load([find_config("configs/ids-llff.yaml")], ["tag=a", f"output={tmp_path}"])
    record(job)
    record(job)
    folder = tmp_path / "ids-llff" / "a"
    assert load([folder / "config.yaml"]).to_yaml() == job.to_yaml()
    starts = json.loads((folder / "provenance.json").read_text())
    assert len(starts) == 2 and all("launch.py --config" in start["command"] for start in starts)
    assert starts[0]["packages"]["torch"].startswith("2.")


def test_git_revision(tmp_path: Path) -> None:
    assert git_revision(tmp_path) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "first")
    assert git_revision(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "a").write_text("2")
    assert git_revision(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
