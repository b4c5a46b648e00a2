"""Text that comes from outside, read whole or refused in one line."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from ids3d.errors import UserError

LARGEST = 16 * 2**20
"""Bytes: no config, table or caption of ours is as large."""


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Raises UserError: it is missing, no plain file (a pipe might never end), too large, or no text.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"cannot read {path}: it is no plain file")
        if status.st_size > LARGEST:
            raise UserError(f"cannot read {path}: it has {status.st_size} bytes, more than {LARGEST}")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"cannot read {path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # not UTF-8; or a path that no file can have
        raise UserError(f"cannot read {path}: {error}") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises UserError: it cannot be read, or holds no JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"cannot read {path}: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}") from error
