"""How every command line complains and ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ids3d.cli import ArgumentParser, positive_int, run_command
from ids3d.errors import Interrupted, UserError


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (None, 0, ""),
        (UserError("no such\nscene"), 2, "error: no such scene\n"),
        (Interrupted("saved to x"), 130, "saved to x\n"),
        (Interrupted("saved to y", 143), 143, "saved to y\n"),
        (KeyboardInterrupt(), 130, "stopped at once: what was not saved by then is lost\n"),
    ],
)
def test_how_a_command_ends(
    raised: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: Sequence[str]) -> None:
        assert list(argv) == ["a", "b"]
        if raised is not None:
            raise raised

    assert run_command(main, ["a", "b"]) == code
    assert capsys.readouterr() == ("", said)


def test_a_programming_error_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda argv: 1 / 0, [])


def test_the_words_of_the_command_line_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["tool", "--size", "3"])
    seen: list[Sequence[str]] = []
    assert run_command(seen.append) == 0
    assert seen == [["--size", "3"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: WHAT (tool --help shows what there is)"),
        (["grow"], "the following arguments are required: --size (tool grow --help shows what there is)"),
        (
            ["grow", "--size", "0"],
            "argument --size: 0: expected a whole number of 1 or more (tool grow --help shows what there is)",
        ),
        (
            ["grow", "--size", "x"],
            "argument --size: x: expected a whole number of 1 or more (tool grow --help shows what there is)",
        ),
    ],
)
def test_complaints_are_one_line_that_names_the_help(words: list[str], message: str) -> None:
    parser = ArgumentParser("tool", "A tool.", "examples:\n  %(prog)s grow --size 3\n")
    grow = parser.add_subparsers(required=True, metavar="WHAT").add_parser("grow")
    grow.add_argument("--size", type=positive_int, required=True)
    assert parser.parse_args(["grow", "--size", "3"]).size == 3
    assert "\n  tool grow --size 3\n" in parser.format_help()
    with pytest.raises(UserError) as caught:
        parser.parse_args(words)
    assert str(caught.value) == message
