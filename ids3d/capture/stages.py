"""Stages of a long job: each keeps its result in a folder, with the fingerprint of what it was made from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from ids3d.errors import UserError
from ids3d.files import atomic_write, cannot_write

BEGUN, DONE = "begun.json", "done.json"


def stage(folder: Path, inputs: Mapping[str, object], make: Callable[[Path], None]) -> str:
    """Have a stage's result in its folder, and return the fingerprint of its inputs.

    What is whole and of the same inputs is kept as it is. What is not whole is handed to `make` again, which goes on
    from what it left there itself; what was made of other inputs is removed first.

    Args:
        folder: the stage's own.
        inputs: all that determines the result, as JSON can hold it; among it the fingerprint of the stage before.
        make: fills the folder, which exists. What it leaves half-written must be nothing that it takes for whole.

    Example:
        >>> import tempfile
        >>> made = []
        >>> with tempfile.TemporaryDirectory() as root:
        ...     a = stage(Path(root, "one"), {"size": 3}, made.append)
        ...     b = stage(Path(root, "one"), {"size": 3}, made.append)
        ...     c = stage(Path(root, "one"), {"size": 4}, made.append)
        >>> a == b, a == c, len(made)
        (True, False, 2)
    """
    text = json.dumps(inputs, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    if _noted(folder / DONE) == fingerprint:
        return fingerprint
    try:
        if _noted(folder / BEGUN) != fingerprint and folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _note(folder / BEGUN, fingerprint)
        make(folder)
        _note(folder / DONE, fingerprint)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return fingerprint


def identity(path: Path) -> list[object]:
    """Return what tells a file from another, and from itself after a change: its name, size and time of change."""
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return [path.name, found.st_size, found.st_mtime_ns]


def _noted(file: Path) -> str | None:
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return noted.get("fingerprint") if isinstance(noted, dict) else None


def _note(file: Path, fingerprint: str) -> None:
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps({"fingerprint": fingerprint}) + "\n", encoding="utf-8")
