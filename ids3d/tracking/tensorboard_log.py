"""TensorBoard: the figures, panels and tables of a run, each phase in a log of its own, with its own steps."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ids3d.errors import UserError
from ids3d.experiment import Job
from ids3d.images import to_bytes
from ids3d.tracking.protocol import Curve, Row, Subject, Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)


class TensorBoardLog(Tracker):
    """Writes `tensorboard/<phase>/` in a run's folder. A table is text there; a film is on the disk only.

    Args:
        job: its settings are shown as text.
        folder: the run's.
        subject: what the run is about; shown as text.
        resume: go on with what is there; otherwise it is deleted. Steps that are done again hide what was there of them.

    Raises UserError: TensorBoard is not installed.
    """

    label = "TensorBoard"

    def __init__(self, job: Job, folder: Path, subject: Subject, resume: bool) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tracking=tensorboard: TensorBoard is not installed: pip install 'ids3d[tensorboard]', or use "
                "tracking=csv"
            ) from None
        self.job, self.folder, self.subject = job, folder / "tensorboard", subject
        self._new, self._resume = SummaryWriter, resume
        self._writer: SummaryWriter | None = None
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        log.info("TensorBoard: tensorboard --logdir %s", self.folder)

    def begin(self, phase: str, step: int) -> None:
        """Open the phase's log; TensorBoard leaves out what earlier processes wrote there of later steps."""
        self.close()
        self._writer = self._new(self.folder / phase, purge_step=step if self._resume else None)
        about = self.subject.group(self.job.name)
        self._writer.add_text("settings", f"{about}\n\n    {_indented(self.job.to_yaml())}", step)

    @property
    def writer(self) -> SummaryWriter:
        """The phase's log; of what comes before any phase, the run's."""
        if self._writer is None:
            self._writer = self._new(self.folder)
        return self._writer

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def panel(self, name: str, image: Tensor, step: int) -> None:
        self.writer.add_image(name, to_bytes(image), step, dataformats="HWC")

    def curve(self, curve: Curve) -> None:
        """In a log beside the phases': its x is no step, and must not go when a phase is gone on with."""
        with self._new(self.folder / "curves", purge_step=0) as writer:
            for x, y in curve.points:
                writer.add_scalar(curve.title, y, round(x))

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        columns = list(dict.fromkeys(column for row in rows for column in row.cells))
        lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
        for row in rows:
            cells = [_cell(row.cells.get(column, "")) for column in columns]
            lines.append(f"| {_cell(row.name)} | " + " | ".join(cells) + " |")
        self.writer.add_text(name, "\n".join(lines), step)

    def summary(self, figures: Mapping[str, float | str], step: int) -> None:
        self.figures({k: v for k, v in figures.items() if isinstance(v, int | float)}, step)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _cell(value: float | str) -> str:
    """A value in a table of Markdown."""
    return value.replace("|", "\\|") if isinstance(value, str) else f"{value:.4g}"


def _indented(text: str) -> str:
    """Text as Markdown's code."""
    return text.replace("\n", "\n    ")
