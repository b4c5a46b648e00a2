"""Errors that are meant for the user, not for the programmer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 1000
"""Characters of a message: one that quotes a whole file is no help."""


def printable(text: str) -> str:
    """Return a text in which what would command a terminal, or cannot be written, is shown as its code."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UserError(Exception):
    """Something that the user can put right. The message is one line: what is wrong, where, and what to do.

    A command line prints it as `error: <message>` and exits with code 2, without a traceback (`ids3d.cli`).
    """

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        line = line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
        super().__init__(printable(line))


class Interrupted(Exception):
    """The run was asked to stop, and it has been saved. The message says where, and how to resume it.

    A command line prints it and exits with `exit_code`: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RunFailed(UserError):
    """The run cannot go on, though nothing is wrong with what was asked for. The message says what is kept, and where.

    A command line prints it as it does a UserError, and exits with code 1.
    """


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return 'did you mean X?', X the valid name most like `name` in any case; '' where none is like it."""
    by_lower = {known.lower(): known for known in sorted(valid, reverse=True)}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"did you mean {by_lower[matches[0]]}?" if matches else ""
