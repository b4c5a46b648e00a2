"""What is said in one go: plain where nobody watches, in colour where somebody does, and whole words always."""

from __future__ import annotations

import io

import pytest

from ids3d.screen import Figures, Line, show_figures, show_lines

COMMAND = "python launch.py --view outputs/" + "a-long-folder/" * 9 + "tag"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def said(file: io.StringIO) -> str:
    lines = [Line("prompts", "“a” to “b\x1b[31m”"), Line("look", COMMAND, whole=True), Line("", "word " * 60)]
    show_lines("a run", lines, file)
    show_figures(Figures(("before", "after"), (("PSNR", ("7.89", "17.19")), ("x\x07", ("–", "1")))), file)
    return file.getvalue()


def test_a_log_holds_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("CLICOLOR_FORCE", "1"), ("TERM", "xterm-256color")):
        monkeypatch.setenv(name, value)
    text = said(io.StringIO())
    assert text.replace("\n", "").isprintable()
    assert "\\x1b[31m" in text and "x\\x07" in text  # what users write commands no terminal
    assert text.splitlines()[0] == "a run"
    words = [line for line in text.splitlines() if "word" in line]
    assert len(words) == 4 and all(len(line) <= 100 for line in words)


def test_what_is_to_be_copied_is_not_broken() -> None:
    assert COMMAND in said(io.StringIO())
    assert COMMAND in said(Terminal()).replace("\x1b[0m", "")


def test_figures_stand_below_their_headings() -> None:
    head, first, *_ = [
        line for line in said(io.StringIO()).splitlines() if "before" in line or "PSNR" in line
    ]
    assert head.index("before") + len("before") == first.index("7.89") + len("7.89")
    assert head.index("after") + len("after") == first.index("17.19") + len("17.19")


def test_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in said(Terminal())
