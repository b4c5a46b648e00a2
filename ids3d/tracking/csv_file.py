"""metrics.csv: the figures of a run's steps, a row each, that goes on where a resumed run does."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ids3d.errors import UserError
from ids3d.files import atomic_write, cannot_write
from ids3d.reading import plain_file
from ids3d.tracking.protocol import Curve, Tracker

log = logging.getLogger(__name__)

HELD = 50
"""Rows that are written at once."""


class CsvFile(Tracker):
    """Writes `metrics.csv` in a run's folder, and a curve to a file of its name.

    Rows that cannot be written (the disk is full) are held, and written when they can be; that is said once.

    Args:
        folder: the run's.
        resume: append to the file that is there; otherwise it is deleted.

    Raises UserError: a damaged file cannot be mended.
    """

    label = "metrics.csv"

    def __init__(self, folder: Path, resume: bool) -> None:
        self.folder, self.file, self.phase = folder, folder / "metrics.csv", ""
        self._rows: list[dict[str, Any]] = []
        self._complained = False
        if not resume:
            self.file.unlink(missing_ok=True)
        set_aside_damaged(self.file)
        drop_rows(self.file, "", math.inf)  # of none: mend the last line
        self._columns: list[str] = []
        if self.file.exists():
            with self.file.open(newline="", encoding="utf-8") as opened:
                self._columns = list(next(csv.reader(opened), []))

    def begin(self, phase: str, step: int) -> None:
        self.phase = phase
        drop_rows(self.file, phase, step)

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        self._rows.append({**figures, "phase": self.phase, "step": step})
        if len(self._rows) >= HELD:
            self.flush()

    def curve(self, curve: Curve) -> None:
        columns = [part.rpartition("/")[2] for part in (curve.axis, curve.name)]
        rows = [dict(zip(columns, point, strict=True)) for point in curve.points]
        write_rows(self.folder / f"{curve.title.rpartition('/')[2]}.csv", columns, rows)

    def flush(self) -> None:
        try:
            self._write()
        except (OSError, UserError) as error:
            if not self._complained:
                reason = cannot_write(self.file, error) if isinstance(error, OSError) else error
                log.warning("%s; the run goes on, and its rows are written once they can be", reason)
            self._complained = True

    def _write(self) -> None:
        if not self._rows:
            return
        columns = sorted({*self._columns, *(name for row in self._rows for name in row)})
        if columns != self._columns:
            rows: list[Mapping[str, Any]] = []
            if self.file.exists():
                with self.file.open(newline="", encoding="utf-8") as opened:
                    rows = list(csv.DictReader(opened))
            write_rows(self.file, columns, [*rows, *self._rows])
            self._columns = columns
        else:
            size = self.file.stat().st_size
            try:
                with self.file.open("a", newline="", encoding="utf-8") as opened:
                    csv.DictWriter(opened, columns).writerows(self._rows)
            except OSError:
                with self.file.open("r+b") as opened:
                    opened.truncate(size)  # rows that were written in part are written again
                raise
        self._rows = []

    def close(self) -> None:
        self.flush()


def drop_rows(file: Path, phase: str, step: float) -> None:
    """Remove a phase's rows from a step on from metrics.csv, and a last line that a kill has cut off.

    What it holds is then what an uninterrupted run has logged when it stands at that step.
    """
    if not file.exists():
        return
    with file.open(newline="", encoding="utf-8") as opened:
        text = opened.read()
    whole = text[: text.rfind("\n") + 1]
    table = csv.DictReader(io.StringIO(whole, newline=""))
    rows = list(table)
    kept = [row for row in rows if row.get("phase") != phase or float(row["step"]) < step]
    if len(whole) < len(text) or len(kept) < len(rows):
        write_rows(file, table.fieldnames or (), kept)


def set_aside_damaged(file: Path) -> None:
    """Rename metrics.csv to metrics.csv.damaged, with a word, where nothing can be appended to it."""
    try:
        text = plain_file(file).read_text(encoding="utf-8")
        rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""), strict=True)
        columns = next(rows, [])
        step = columns.index("step") if columns else 0
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"{len(row)} values for {len(columns)} columns")
            float(row[step])
    except FileNotFoundError:
        return
    except (OSError, ValueError, csv.Error):
        damaged = file.with_name(f"{file.name}.damaged")
        file.replace(damaged)
        log.warning("%s is damaged: what it held is in %s now", file, damaged)


def write_rows(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table anew, whole or not at all."""
    with atomic_write(file) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as opened:
        table = csv.DictWriter(opened, columns)
        table.writeheader()
        table.writerows(rows)
