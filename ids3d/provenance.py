"""Record what a run was made of: resolved config, command, git revision, machine and packages."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ids3d.experiment import Job
from ids3d.files import atomic_write
from ids3d.reading import plain_file

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Earlier:
    """What is known of a run's starts before this one.

    Attributes:
        settings: what the last was recorded with; "": not known.
        seconds: that all of them ran for; of one that was killed, up to what it noted last.
    """

    settings: str = ""
    seconds: float = 0.0


def record(job: Job, settings: str = "", folder: Path | None = None) -> None:
    """Write config.yaml, and add an entry to provenance.json (a list, one for each start), in the run's folder.

    Args:
        settings: names all that determines the run's result.
        folder: the run's, where it is not (yet) the job's.
    """
    folder = folder or job.folder
    with atomic_write(folder / "config.yaml") as file:
        file.write_text(job.to_yaml(), encoding="utf-8")
    path = folder / "provenance.json"
    starts = _read_starts(folder)
    if path.exists() and not starts:
        path.replace(path.with_name("provenance.json.damaged"))
    _write_starts(folder, [*starts, {**describe(), "settings": settings, "seconds": 0.0}])


def earlier_starts(folder: Path) -> Earlier:
    """Return what provenance.json in a run's folder says. What is damaged or missing there is not known."""
    starts = _read_starts(folder)
    if not starts:
        return Earlier()
    seconds = [start.get("seconds") for start in starts]
    known = (float(s) for s in seconds if isinstance(s, int | float) and 0 <= s < 1e12)
    return Earlier(str(starts[-1].get("settings", "")), sum(known))


def note_seconds(folder: Path, seconds: float) -> None:
    """Note in provenance.json how long the last start has been running."""
    starts = _read_starts(folder)
    if starts:
        starts[-1]["seconds"] = seconds
        _write_starts(folder, starts)


def _read_starts(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of provenance.json, [] where there are none; a damaged file is said to be one."""
    path = folder / "provenance.json"
    try:
        starts = json.loads(plain_file(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError):
        starts = None
    if isinstance(starts, list) and all(isinstance(start, dict) for start in starts):
        return starts
    log.warning("%s is damaged: what it said of earlier starts is not known", path)
    return []


def _write_starts(folder: Path, starts: list[dict[str, Any]]) -> None:
    with atomic_write(folder / "provenance.json") as file:
        file.write_text(json.dumps(starts, indent=2) + "\n", encoding="utf-8")


def describe() -> dict[str, Any]:
    """Describe this process: command, working folder, time, git revision, Python, machine, installed packages."""
    return {
        "command": shlex.join([sys.executable, *sys.argv]),
        "folder": str(Path.cwd()),
        "started": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "git": git_revision(ROOT),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "packages": {
            d.name: d.version
            for d in sorted(importlib.metadata.distributions(), key=lambda d: d.name.lower())
        },
    }


def summary() -> dict[str, str]:
    """Return those of the facts of `describe` that a report ends with."""
    made = describe()
    packages = (f"{name} {made['packages'].get(name, '')}" for name in ("torch", "diffusers", "transformers"))
    return {
        "revision": str(made["git"]),
        "python": made["python"],
        "machine": made["machine"],
        "packages": ", ".join(packages),
        "written": made["started"],
    }


def git_revision(folder: Path) -> str | None:
    """Return the commit of the repository at `folder`, with '-dirty' for uncommitted changes; None without one."""
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
