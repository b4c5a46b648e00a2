"""TensorBoard: the figures, panels and tables of a run, each phase in a log of its own, with its own steps."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ids3d.errors import UserError
from ids3d.experiment import Job
from ids3d.images import to_bytes
from ids3d.tracking.protocol import Curve, Row, Subject, Tracker

log = logging.getLogger(__name__)


class TensorBoardLog(Tracker):
    """Writes `tensorboard/<phase>/` in a run's folder. A table is text there; a film is on the disk only.

    Args:
        job: its settings are shown as text.
        folder: the run's.
        subject: what the run is about; shown as text.
        resume: go on with what is there; otherwise it is deleted. Steps done again hide what was there of them.

    Raises UserError: TensorBoard is not installed.
    """

    label = "TensorBoard"

    def __init__(self, job: Job, folder: Path, subject: Subject, resume: bool) -> None:
        try:
            import tensorboard
        except ImportError:
            raise UserError(
                "tracking=tensorboard: TensorBoard is not installed: pip install -e '.[tensorboard]', or "
                "use tracking=csv"
            ) from None
        self.folder = folder / "tensorboard"
        self._file: EventFile | None = None
        self._about = f"{subject.group(job.name)}\n\n    " + job.to_yaml().replace("\n", "\n    ")
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        shown = job.folder / "tensorboard"
        log.info("TensorBoard %s: tensorboard --logdir %s", tensorboard.__version__, shown)

    def begin(self, phase: str, step: int) -> None:
        """Open the phase's log; TensorBoard leaves out what earlier processes wrote there of later steps."""
        self.close()
        self._file = EventFile(self.folder / phase, step)
        self._file.text("settings", self._about, step)

    @property
    def file(self) -> EventFile:
        """The phase's log; of what comes before any phase, the run's."""
        if self._file is None:
            self._file = EventFile(self.folder, 0)
        return self._file

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.file.scalar(name, value, step)

    def panel(self, name: str, image: Tensor, step: int) -> None:
        self.file.image(name, image, step)

    def curve(self, curve: Curve) -> None:
        """In a log of its axis: its x is no step, and must not go when a phase is gone on with."""
        file = EventFile(self.folder / f"by_{curve.axis.rpartition('/')[2]}", 0)
        for x, y in curve.points:
            file.scalar(curve.title, y, round(x))
        file.close()

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        columns = list(dict.fromkeys(column for row in rows for column in row.cells))
        lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
        for row in rows:
            cells = [_cell(row.cells.get(column, "")) for column in columns]
            lines.append(f"| {_cell(row.name)} | " + " | ".join(cells) + " |")
        self.file.text(name, "\n".join(lines), step)

    def summary(self, figures: Mapping[str, float | str], step: int) -> None:
        self.figures({k: v for k, v in figures.items() if isinstance(v, int | float)}, step)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class EventFile:
    """An event file that is written at once.

    torch's SummaryWriter writes from a thread, which says by a traceback on the terminal that the disk is full.

    Args:
        folder: gets the file, beside those of earlier processes.
        step: TensorBoard leaves out what those hold of this step and later ones.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        self._proto, self._summary = event_pb2, summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._writer = RecordWriter((folder / name).open("ab"))
        self._write(file_version="brain.Event:2")
        self._write(session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START), step=step)

    def _write(self, **content: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())

    def scalar(self, name: str, value: float, step: int) -> None:
        """Write a figure."""
        self._write(summary=self._summary.scalar(name, value), step=step)

    def image(self, name: str, image: Tensor, step: int) -> None:
        """Write a picture (h, w, 3) in [0, 1]."""
        self._write(summary=self._summary.image(name, to_bytes(image), dataformats="HWC"), step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """Write Markdown."""
        self._write(summary=self._summary.text(name, text), step=step)

    def flush(self) -> None:
        """Bring to the disk what has been written."""
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()


def _cell(value: float | str) -> str:
    """A value in a table of Markdown."""
    return value.replace("|", "\\|") if isinstance(value, str) else f"{value:.4g}"
