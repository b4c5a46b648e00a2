"""What is said of settings is what stands in the code beside them, and what parsing does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from ids3d.config import check_bounds
from ids3d.config.describing import Setting, bounds_of, comments_of, describe, written

HALF, TWO = "(0, 0.5]", 2


@dataclass
class Inner:
    depth: int = 3  # how deep


@dataclass
class Base:
    """Settings, with comments wherever the house writes them."""

    plain: int = 1  # behind
    # above, in two
    # lines
    two: float = 0.5
    none: bool = True

    both: str = "a # b"  # "quoted" # and so on
    # above,
    wrapped: str = (
        "a text that is long enough"  # and within brackets, which the formatter puts about such a line
    )
    # of nothing

    ignored: str = ""  # type: ignore[assignment]  # after a checker's
    silent: int = 2  # type: ignore
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        check_bounds(self, plain=f"[{TWO - 2}, 9]", two=HALF)


@dataclass
class Extended(Base):
    plain: int = 4
    two: float = 0.25  # of another base
    choice: Literal["a", "b"] | None = None  # one of two
    needed: int = field(kw_only=True)  # no default

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, plain="[2, 9]")


def test_comments_above_and_behind_are_read() -> None:
    assert comments_of(Base) == {
        "plain": "behind",
        "two": "above, in two lines",
        "both": '"quoted" # and so on',
        "wrapped": "above, and within brackets, which the formatter puts about such a line",
        "ignored": "after a checker's",
    }


def test_a_subclass_keeps_what_it_does_not_say_itself() -> None:
    own = comments_of(Base) | {"two": "of another base", "choice": "one of two", "needed": "no default"}
    assert comments_of(Extended) == own
    assert bounds_of(Base) == {"plain": "[0, 9]", "two": "(0, 0.5]"}
    assert bounds_of(Extended) == {"plain": "[2, 9]", "two": "(0, 0.5]"}


def test_settings_are_as_they_are_typed() -> None:
    found = {setting.key: setting for setting in describe(Extended, "at")}
    assert list(found) == [
        f"at.{key}"
        for key in (
            "plain",
            "two",
            "none",
            "both",
            "wrapped",
            "ignored",
            "silent",
            "inner.depth",
            "choice",
            "needed",
        )
    ]
    assert found["at.plain"] == Setting("at.plain", "a whole number", "[2, 9]", "4", "behind")
    assert found["at.inner.depth"] == Setting("at.inner.depth", "a whole number", "", "3", "how deep")
    assert found["at.choice"] == Setting("at.choice", "a or b or null", "", "null", "one of two")
    assert found["at.needed"].default is None and found["at.none"].default == "true"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ((0.05, 1), "[0.05, 1]"),
        ("", '""'),
        (1e-4, "0.0001"),
        ("a", "a"),
        ([], "[]"),
    ],
)
def test_values_are_as_they_are_typed(value: object, text: str) -> None:
    assert written(value) == text
