"""Bounds of settings, written as intervals are: `check_bounds(self, steps="[1, 1e6]", momentum="[0, 1)")`."""

from __future__ import annotations

import re
from typing import Any

STEPS = "[1, 1e9]"  # numbers of steps, and of steps between two things
STEPS_OR_NONE = "[0, 1e9]"  # ... of which 0 switches something off
WEIGHT = "[0, 1e6]"  # of a term of a sum; 0 leaves it out
SHARE = "[0, 1]"


def check_bounds(settings: Any, **intervals: str) -> None:
    """Check numbers of a dataclass against intervals: a square bracket includes that end, a round one does not.

    Args:
        settings: the dataclass, usually in its `__post_init__`.
        intervals: by the field's name. A field holds a number, a list of numbers, or None, which passes.

    Raises:
        ValueError: for the first field that is out of bounds (or nan).

    Example:
        >>> from types import SimpleNamespace
        >>> check_bounds(SimpleNamespace(lr=0.0), lr="(0, 1]")
        Traceback (most recent call last):
        ...
        ValueError: lr=0.0 is not in (0, 1]
    """
    for name, interval in intervals.items():
        value = getattr(settings, name)
        for number in value if isinstance(value, list | tuple) else [value]:
            if number is not None and not _is_within(number, interval):
                raise ValueError(f"{name}={number} is not in {interval}")


def _is_within(number: float, interval: str) -> bool:
    match = re.fullmatch(r"([\[(])(.+), (.+)([\])])", interval)
    assert match is not None, interval
    low, high = float(match[2]), float(match[3])
    above = low <= number if match[1] == "[" else low < number
    return above and (number <= high if match[4] == "]" else number < high)
