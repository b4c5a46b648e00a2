"""A report as one HTML file that opens without a network, with its tables as CSV and its figures as PNG beside it."""

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

from ids3d.images import to_bytes
from ids3d.report.stats import Estimate

Verdict = Literal["holds", "does not hold", "not decided"]


@dataclass(frozen=True)
class Table:
    """Rows of a label and cells: Estimates, numbers or words.

    `note` says what the columns are, and which of them was left out and why.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Estimate | float | str, ...]], ...]
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, whether it holds here, and the figures that say so."""

    text: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Figure:
    """A picture (h, w, 3) in [0, 1] with a caption; `name` is its file's."""

    name: str
    caption: str
    picture: Tensor


@dataclass
class Report:
    """What a study found."""

    title: str
    command: str
    about: str = ""
    tables: list[Table] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)  # settings, versions, machine, time

    def write(self, folder: Path, parts: bool = True) -> Path:
        """Write report.html, and with `parts` each table and figure as a file too; the path of the page."""
        folder.mkdir(parents=True, exist_ok=True)
        for table in self.tables if parts else ():
            _write_csv(folder / f"{table.name}.csv", table)
        for figure in self.figures if parts else ():
            (folder / f"{figure.name}.png").write_bytes(_png(figure.picture))
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("ids3d.report", "."),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters |= {"cell": shown, "data_url": _data_url}
        page = folder / "report.html"
        unfinished = page.with_name(".report.html")
        unfinished.write_text(
            environment.get_template("report.html.jinja").render(report=self), encoding="utf-8"
        )
        unfinished.replace(page)
        return page


def shown(value: Estimate | float | str) -> str:
    """A cell as text: `21.30 (20.81 to 21.77)`, three significant digits or more; a dash for what is undefined."""
    if isinstance(value, str):
        return value
    if isinstance(value, Estimate):
        interval = "" if math.isnan(value.low) else f" ({_number(value.low)} to {_number(value.high)})"
        return f"{_number(value.mean)}{interval}"
    return _number(value)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) >= 10:
        return str(int(value))
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 100 else 1
    return f"{value:.{digits}f}"


def _write_csv(path: Path, table: Table) -> None:
    """Means, and the ends of their intervals in columns of their own."""
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


def _png(picture: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(picture)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _data_url(picture: Tensor) -> str:
    return f"data:image/png;base64,{base64.b64encode(_png(picture)).decode()}"


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """Pictures (h, w, 3) one below the other, the narrower ones with white beside them."""
    width = max(row.shape[1] for row in rows)
    return torch.cat([functional.pad(row, (0, 0, 0, width - row.shape[1]), value=1.0) for row in rows])


def curves(
    title: str,
    axes: tuple[str, str],
    lines: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    points: Sequence[tuple[str, float, float]] = (),
    whole: str = "",
) -> Tensor:
    """A plot (h, w, 3): a labelled line for each of `lines` (label, x, y), and single labelled points.

    The line labelled `whole`, which the others are parts of, is black and broad.
    """
    import matplotlib  # a second to import: only who draws pays

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6.4, 4.2), dpi=110)
    for label, x, y in lines:
        stands_out: dict[str, Any] = {"color": "black", "linewidth": 3, "zorder": 3} if label == whole else {}
        axis.plot(x, y, marker="o", markersize=3, label=label, **stands_out)
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
