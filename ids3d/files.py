"""Files that are written whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to; what is written there, a file or a folder, becomes `path` when the block ends.

    The path has the same name as `path` and lies in a temporary folder beside it, made with its parents. If the block
    raises, what was at `path` stays as it was and nothing else is left. A folder is never put in another's place
    (OSError), unless that is empty.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(f"{folder}/new/figures.txt") as file:
        ...         _ = file.write_text("1 2 3")
        ...     Path(folder, "new", "figures.txt").read_text()
        '1 2 3'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)
