"""The command line in processes of their own, to be killed or held short; all that they need is imported already."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

PRELOADED = [
    "ids3d.systems.scene_run",
    "ids3d.models.priors.stable_diffusion",
    "ids3d.models.guidance.ids",
    "ids3d.launch",
    "tests.systems.processes",
]


def start(
    words: list[str],
    said: Path,
    kill_at: tuple[str, int] | None = None,
    largest: int | None = None,
    harm: tuple[str, int, str] | None = None,
) -> BaseProcess:
    """Start `launch.py` with these words.

    Args:
        said: gets what it prints.
        kill_at: ("module:function", n): it dies of SIGKILL at the n-th call.
        largest: the operating system refuses it files of more bytes, as on a full disk.
        harm: ("module:function", n, how): at the n-th call W&B's service is "killed", or its folder "removed".
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_command, args=(dict(os.environ), words, said, kill_at, largest, harm))
    process.start()
    return process


def finish(words: list[str], said: Path, **options: Any) -> int:
    """Start it, wait, and return its exit code; negative: it died of that signal."""
    process = start(words, said, **options)
    process.join(300)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def _command(
    environment: dict[str, str],
    words: list[str],
    said: Path,
    kill_at: tuple[str, int] | None,
    largest: int | None,
    harm: tuple[str, int, str] | None,
) -> None:
    import torch

    from ids3d import launch
    from ids3d.cli import run_command

    os.environ.clear()  # it is the server's, that of the first test
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = said.open("w", buffering=1)
    if kill_at is not None:
        _at(*kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if harm is not None:
        _at(*harm[:2], _kill_wandb if harm[2] == "killed" else _remove_wandb)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    launch.show_log()
    sys.exit(run_command(launch.main, words))


def _kill_wandb() -> None:
    for child in psutil.Process().children():
        if "wandb" in child.name():
            child.kill()
            child.wait()


def _remove_wandb() -> None:
    import wandb

    assert wandb.run is not None
    shutil.rmtree(Path(wandb.run.dir).parent.parent)


def _at(place: str, call: int, do: Callable[[], object]) -> None:
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    original, calls = getattr(owner, name), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            do()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)
