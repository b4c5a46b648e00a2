"""What hostile or careless input looks like, and what has to come of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ids3d.errors import UserError

T = TypeVar("T")

# The same examples in every run, so that a failure is the change's.
fuzz = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def verdict(call: Callable[[], T], folder: Path | None = None) -> T | None:
    """What the call returns, or None where it refuses its input: in one line, and with nothing left in the folder."""
    before = None if folder is None else sorted(folder.rglob("*"))
    try:
        return call()
    except UserError as error:
        line = str(error)
        assert line and line.isprintable() and len(line) < 1100, line[:300]
        line.encode()  # a log file can hold it
        return None
    finally:
        assert folder is None or sorted(folder.rglob("*")) == before


class Payload:
    """Makes a file in the working folder where a pickle of it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch payload_ran",)


VALUES = (
    # numbers that are none, or too much of one
    *(".nan", ".inf", "-.inf", "nan", "inf", "1e300", "-1e300", "1e-300", "-1", "-0.0", "0", "1e15"),
    *("9" * 50, "9" * 5000),
    # other types
    *("true", "null", "~", "", "''", "[]", "{}", "[1]", "[1, 2]", "[.nan, .inf]", "[0.5, 0.2]", "{a: 1}", "{type: 1}"),
    # what YAML and OmegaConf would act on
    *("!!python/object/apply:os.system [x]", "!!int x", "*a", "&a [*a]", "${oc.env:HOME}", "[${oc.env:HOME}]"),
    *("${", "???", "%YAML 9"),
    # what paths and import paths would act on
    *("..", "../../x", "/etc/passwd", "/dev/zero", "~root", ".:x", ":x", "os:system", "builtins:exec"),
    *("a" * 300, "a/" * 999),
    # what cannot be written, or is written to a terminal
    *("\udcff", "a\0b", "\x1b[2J", "a\nb", "\ufeff", "\u202e", "é" * 200),
    # what makes parsers deep, or loses them
    *("[" * 2000, "[" * 2000 + "]" * 2000, "{a: " * 2000, '"', "'", "- " * 500, "a: b: c", "#"),
)  # fmt: skip


# Nothing that can be read lies there.
PATHS = ("a\0b", "x" * 300, "x/" * 3000, "\udcff", "/dev/null", "/dev/zero", ".", "~nobody_at_all")


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """Strategy of a file's bytes with a few of them changed, cut out, doubled or cut off."""
    place, piece = st.integers(0, len(data)), st.binary(max_size=8)

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        made = data
        for start, length, new in changes:
            made = made[:start] + new + made[start + length :]
        return made

    small, large = st.integers(0, 8), st.integers(0, len(data))
    return st.lists(st.tuples(place, small | large, piece), min_size=1, max_size=4).map(apply)
