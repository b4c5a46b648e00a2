"""What a command says in one go, for people: labelled lines, and tables of figures. Plain text where nobody watches."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ids3d.errors import printable

WIDTH = 100
"""Columns, where a terminal has as many or there is none."""


@dataclass(frozen=True)
class Line:
    """A label and what is said of it, which may take several lines of the screen; an empty label goes on.

    Attributes:
        whole: it stays in one line, such as a path or a command that is to be copied.
    """

    label: str
    text: str
    whole: bool = False


@dataclass(frozen=True)
class Figures:
    """Rows of a label and its cells, under headings.

    Attributes:
        columns: the headings of the cells.
        rows: (label, cells) with as many cells as headings.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def show_lines(title: str, lines: Sequence[Line], file: TextIO) -> None:
    """Print lines below a title. Words are not broken, so that paths and commands can be copied."""
    console = _console(file)
    indent = max((len(line.label) for line in lines), default=0) + 2
    width = max(min(WIDTH, console.width) - indent, 20)
    console.print(Text(printable(title), style="bold"), soft_wrap=True)
    for line in lines:
        text = printable(line.text)
        wrapped = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        parts = [text] if line.whole or not wrapped else wrapped
        for number, part in enumerate(parts):
            label = line.label if number == 0 else ""
            console.print(Text.assemble((f"{label:{indent}}", "cyan"), part), soft_wrap=True)


def show_figures(figures: Figures, file: TextIO) -> None:
    """Print a table of figures."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_header=any(figures.columns))
    table.add_column("", style="cyan", no_wrap=True)
    for heading in figures.columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for label, cells in figures.rows:
        table.add_row(printable(label), *map(printable, cells))
    _console(file).print(table)


def _console(file: TextIO) -> Console:
    """rich's console: colours on a terminal, and nothing but text elsewhere, whatever the environment asks for."""
    is_terminal = file.isatty()
    return Console(
        file=file,
        force_terminal=is_terminal,
        color_system="auto" if is_terminal else None,
        width=None if is_terminal else WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )
