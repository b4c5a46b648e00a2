"""Errors that are meant for the user, not for the programmer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can put right. The message is one line: what is wrong, where, and what to do.

    A command line prints it as `error: <message>` and exits with code 2, without a traceback (`ids3d.cli`).
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Interrupted(Exception):
    """The user stopped the run (Ctrl-C), and it has been saved. The message says where, and how to resume it.

    A command line prints it and exits with code 130.
    """


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return 'did you mean X?', with X the valid name most like `name`; '' where nothing is valid."""
    matches = difflib.get_close_matches(name, sorted(valid), n=1, cutoff=0.0)
    return f"did you mean {matches[0]}?" if matches else ""
