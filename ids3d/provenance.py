"""Record what a run was made of: resolved config, command, git revision, machine and packages."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ids3d.experiment import Job
from ids3d.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent


def record(job: Job) -> None:
    """Write config.yaml, and add an entry to provenance.json (a list, one for each start), in the run's folder."""
    with atomic_write(job.folder / "config.yaml") as file:
        file.write_text(job.to_yaml(), encoding="utf-8")
    path = job.folder / "provenance.json"
    starts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    with atomic_write(path) as file:
        file.write_text(json.dumps([*starts, describe()], indent=2) + "\n", encoding="utf-8")


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
