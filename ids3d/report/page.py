"""Write a report as one HTML file that opens without a network, its tables as CSV and its figures as PNG beside it."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ids3d.files import atomic_write
from ids3d.images import to_bytes
from ids3d.report.stats import Estimate

LOSSLESS = 100_000
"""Pixels of a picture of a scene that is shown to the bit: in smaller ones, coding blurs the edges of colours."""

Verdict = Literal["holds", "does not hold", "not decided"]


@dataclass(frozen=True)
class Table:
    """Rows of a label and its cells.

    Attributes:
        name: the title; names the CSV file too.
        columns: the headings of the cells.
        rows: (label, cells); a cell is an estimate, a number or text.
        note: what the columns are, and which were left out and why.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Estimate | float | str, ...]], ...]
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, whether it holds here, and the numbers that decide it."""

    text: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Figure:
    """An image with a caption.

    Attributes:
        name: of its PNG file.
        image: (h, w, 3) in [0, 1].
    """

    name: str
    caption: str
    image: Tensor


@dataclass(frozen=True)
class View:
    """Pictures of one thing, side by side where there is room.

    Attributes:
        name: what it is called, such as its photograph.
        pictures: (label, (h, w, 3) in [0, 1]) each.
        wide: the same, below those, as wide as they are together.
        note: what is to be said of it.
    """

    name: str
    pictures: tuple[tuple[str, Tensor], ...]
    wide: tuple[tuple[str, Tensor], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Setting:
    """A setting as it was, and as it is by default; `default` is None where it has no default."""

    key: str
    value: str
    default: str | None

    @property
    def differs(self) -> bool:
        return self.default is not None and self.value != self.default


@dataclass
class Report:
    """What a study found.

    Attributes:
        command: what the report was made with.
        about: a sentence or two below the title.
        film: an MP4 that plays in the page, with what it shows.
        views: pictures that belong together.
        settings: all of them; those that differ from their defaults are marked.
        facts: how it was made: versions, machine, time.
    """

    title: str
    command: str
    about: str = ""
    tables: list[Table] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    film: tuple[Path, str] | None = None
    views: list[View] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path, parts: bool = True) -> Path:
        """Write report.html and return its path; with `parts`, write each table and figure as a file too."""
        folder.mkdir(parents=True, exist_ok=True)
        for table in self.tables if parts else ():
            _write_csv(folder / f"{table.name}.csv", table)
        for figure in self.figures if parts else ():
            (folder / f"{figure.name}.png").write_bytes(_png(figure.image))
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("ids3d.report", "."),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters |= {
            "cell": format_cell,
            "data_url": _data_url,
            "photo_url": _photo_url,
            "film_url": _film_url,
        }
        page = folder / "report.html"
        html = environment.get_template("report.html.jinja").render(report=self)
        with atomic_write(page) as file:
            file.write_text(html, encoding="utf-8")
        return page


def format_cell(value: Estimate | float | str) -> str:
    """Return a cell as text.

    >>> format_cell(Estimate(21.3, 20.81, 21.77, 64)), format_cell(0.5), format_cell(math.nan)
    ('21.30 (20.81 to 21.77)', '0.500', '–')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Estimate):
        interval = ""
        if not math.isnan(value.low):
            interval = f" ({_format_number(value.low)} to {_format_number(value.high)})"
        return f"{_format_number(value.mean)}{interval}"
    return _format_number(value)


def _format_number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) >= 10:
        return str(int(value))
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 100 else 1
    return f"{value:.{digits}f}"


def _write_csv(path: Path, table: Table) -> None:
    """Write a table; an estimate takes four columns: mean, low, high, n."""
    wide = [i for i in range(len(table.columns)) if any(isinstance(r[1][i], Estimate) for r in table.rows)]
    header: list[str] = [table.name]
    for i, column in enumerate(table.columns):
        header += [column, f"{column} low", f"{column} high", f"{column} n"] if i in wide else [column]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for label, cells in table.rows:
            row: list[object] = [label]
            for i, cell in enumerate(cells):
                if i not in wide:
                    row.append(cell)
                elif isinstance(cell, Estimate):
                    row += [cell.mean, cell.low, cell.high, cell.n]
                else:
                    row += [cell, "", "", ""]
            writer.writerow(row)


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _data_url(image: Tensor) -> str:
    return f"data:image/png;base64,{base64.b64encode(_png(image)).decode()}"


def _photo_url(image: Tensor) -> str:
    """A picture of a scene, as WebP: many of them are on a page."""
    buffer, small = io.BytesIO(), image.shape[0] * image.shape[1] <= LOSSLESS
    Image.fromarray(to_bytes(image)).save(buffer, format="WEBP", quality=92, lossless=small)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _film_url(film: Path) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(film.read_bytes()).decode()}"


def stack_rows(rows: Sequence[Tensor]) -> Tensor:
    """Return images (h, w, 3) one below the other; the narrower ones are padded with white on the right."""
    width = max(row.shape[1] for row in rows)
    return torch.cat([functional.pad(row, (0, 0, 0, width - row.shape[1]), value=1.0) for row in rows])


def plot_lines(
    title: str,
    axes: tuple[str, str],
    lines: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    points: Sequence[tuple[str, float, float]] = (),
    emphasised: str = "",
) -> Tensor:
    """Return a plot (h, w, 3) in [0, 1].

    Args:
        axes: the labels of x and y.
        lines: (label, x, y) of each line.
        points: (label, x, y) of each single point.
        emphasised: the label of the line that is drawn black and broad.
    """
    import matplotlib  # takes a second, and only plots need it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6.4, 4.2), dpi=110)
    for label, x, y in lines:
        style: dict[str, Any] = {}
        if label == emphasised:
            style = {"color": "black", "linewidth": 3, "zorder": 3}
        axis.plot(x, y, marker="o", markersize=3, label=label, **style)
    for label, at_x, at_y in points:
        axis.plot([at_x], [at_y], marker="s", linestyle="none", label=label)
    axis.set(title=title, xlabel=axes[0], ylabel=axes[1])
    axis.grid(alpha=0.3)
    if lines or points:
        axis.legend(fontsize=8)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    return torch.from_numpy(np.asarray(Image.open(buffer).convert("RGB")).copy()).float() / 255
