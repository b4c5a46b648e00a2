"""Files that are written whole or not at all, and folders that one process at a time writes in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ids3d.errors import UserError

UNFINISHED = ".unfinished-"
"""How the temporary folders begin in which files are written: what a killed process leaves of them is worth nothing."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to; what is written there, a file or a folder, becomes `path` when the block ends.

    The path has the same name as `path` and lies in a temporary folder beside it, made with its parents. If the block
    raises, what was at `path` stays as it was and nothing else is left. A folder is never put in another's place,
    unless that is empty.

    Raises UserError in place of an OSError: the disk is full, the folder is read-only, a file is in the way, ...

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(f"{folder}/new/figures.txt") as file:
        ...         _ = file.write_text("1 2 3")
        ...     Path(folder, "new", "figures.txt").read_text()
        '1 2 3'
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write in, which takes the place of `folder`, there or not, when the block ends.

    It lies in a temporary folder beside `folder`. If the block raises, what was there stays as it was and nothing else
    is left. Raises UserError in place of an OSError, as `atomic_write` does.
    """
    parent = folder.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=parent) as temporary:
                new, old = Path(temporary) / folder.name, folder.with_name(f"{folder.name}.replaced")
                new.mkdir()
                yield new
                shutil.rmtree(old, ignore_errors=True)
                if folder.exists():
                    folder.rename(old)
                new.rename(folder)
                shutil.rmtree(old, ignore_errors=True)
        finally:
            if not any(parent.iterdir()):
                parent.rmdir()
    except OSError as error:
        raise cannot_write(folder, error) from error


def cannot_write(path: Path, error: OSError) -> UserError:
    """Say that `path` cannot be written, why, and what to do."""
    reason = error.strerror or str(error).partition("\n")[0]
    return UserError(f"{path} cannot be written ({reason}): make room there, or choose another place")


@contextmanager
def locked(folder: Path, otherwise: str = "or give this run another tag", wait: float = 0) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it is not there, as long as the block runs.

    The lock is the operating system's on the file `.lock` in it: it ends with the process, however that ends. What a
    killed process has left of half-written files is removed.

    Args:
        otherwise: what else there is to do where another process has it, for the message.
        wait: seconds for another process to leave it.

    Raises UserError: another process has it, or the folder cannot be written in.
    """
    lock = FileLock(folder / ".lock", timeout=wait)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder} is being written by another process: wait for it, stop it, {otherwise}"
        ) from None
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        for left in list(folder.rglob(f"{UNFINISHED}*")):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()
