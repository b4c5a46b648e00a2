"""Text that comes from outside, read whole or refused in one line."""

from __future__ import annotations

import errno
import json
import stat
from pathlib import Path
from typing import Any

from ids3d.errors import UserError


def given_path(text: str, setting: str) -> Path:
    """Return the path that a setting says, with ~ for a home. Raises UserError for one that nothing can lie at."""
    try:
        path = Path(text).expanduser()
        path.exists()  # raises where it cannot be told: too long, or behind a closed door
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{setting} {text[:100]}: {reason}") from None
    return path


def is_plain(text: str) -> bool:
    """Tell whether files and paths can hold a text: it has no NUL, and no half of a pair of surrogates."""
    return not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text)


def plain_file(path: Path) -> Path:
    """Return the path. Raises OSError: there is nothing, or no plain file (a pipe might never end)."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return path


def read_text(path: Path, kind: str = "", largest: int = 16 * 2**20) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Args:
        kind: what messages call the file, such as "config".
        largest: bytes that it may have.

    Raises UserError: it is missing, no plain file (a pipe might never end), too large, or no text.
    """
    named = f"{kind} {path}".strip()
    try:
        size = plain_file(path).stat().st_size
        if size > largest:
            raise UserError(f"{named} cannot be read: {size} bytes are more than {largest}")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{named} does not exist") from None
    except OSError as error:
        raise UserError(f"{named} cannot be read: {error.strerror}") from error
    except ValueError as error:  # no UTF-8; or a path that no file can have
        raise UserError(f"{named} cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises UserError: it cannot be read, or is no JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{path} cannot be read: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
