"""What a run logs to: all its trackers as one, none of which can end it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ids3d.errors import UserError
from ids3d.experiment import Job
from ids3d.tracking.csv_file import CsvFile
from ids3d.tracking.protocol import Curve, Row, Subject, Tracker
from ids3d.tracking.tensorboard_log import TensorBoardLog
from ids3d.tracking.wandb_run import WandbRun

log = logging.getLogger(__name__)


class Tracking:
    """The trackers of one run: CSV, and with `tracking=wandb` or `tensorboard` that too; with `none` nothing at all.

    Pictures, films and tables go to W&B and TensorBoard only; what is to be kept is on the disk whatever the tracking.

    A tracker that raises, whatever and wherever, is reported in one line and left out from then on: the run goes on.

    Args:
        job: its `tracking` says which trackers.
        folder: the run's folder: `metrics.csv`, `wandb/` and `tensorboard/` are in it.
        subject: what the run is about.

    Nothing is written before `open`.
    """

    def __init__(self, job: Job, folder: Path, subject: Subject | None = None) -> None:
        self.job, self.folder, self.subject = job, folder, subject or Subject()
        self._trackers: list[Tracker] = []

    def open(self, resume: bool = False) -> Tracking:
        """Start to log, and return this.

        Args:
            resume: go on with what is there already, instead of starting anew.

        Raises:
            UserError: a tracker cannot be started: TensorBoard is not installed; there is a key, but W&B's service
                refuses it or cannot be reached within a minute.
        """
        kind, job, folder, subject = self.job.tracking, self.job, self.folder, self.subject
        if kind == "none":
            return self
        try:
            if kind == "wandb":
                self._trackers.append(WandbRun(job, folder, subject, resume))
            elif kind == "tensorboard":
                self._trackers.append(TensorBoardLog(job, folder, subject, resume))
            self._trackers.append(CsvFile(folder, resume))
        except UserError:
            raise
        except Exception as error:  # the libraries' own
            raise UserError(
                f"tracking={kind} cannot be started ({_reason(error)}); use tracking=csv"
            ) from error
        return self

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except Exception as error:  # a tracker's library can raise anything, and is not worth the run
                self._trackers.remove(tracker)
                log.warning("%s fails (%s): the run goes on without it", tracker.label, _reason(error))
                with contextlib.suppress(Exception):
                    tracker.abandon()

    def begin(self, phase: str, step: int) -> None:
        """Log what comes as of a phase that stands at a step; what is logged of its later steps is done again."""
        self.flush()
        self._tell(lambda tracker: tracker.begin(phase, step))

    def log_figures(self, figures: Mapping[str, float], step: int) -> None:
        """Log figures of a step of the phase."""
        self._tell(lambda tracker: tracker.figures(figures, step))

    def log_panel(self, name: str, image: Tensor, step: int) -> None:
        """Log a picture ((h, w, 3) in [0, 1], any device), such as those of `ids3d.images.panel`, under `name`."""
        self._tell(lambda tracker: tracker.panel(name, image, step))

    def log_video(self, name: str, file: Path, step: int) -> None:
        """Log a video (an .mp4 file) under `name`."""
        self._tell(lambda tracker: tracker.video(name, file, step))

    def log_curve(self, curve: Curve) -> None:
        """Log figures along an axis of their own."""
        self._tell(lambda tracker: tracker.curve(curve))

    def log_table(self, name: str, rows: Sequence[Row], step: int) -> None:
        """Log a table of views, or of edited images, under `name`."""
        self._tell(lambda tracker: tracker.table(name, rows, step))

    def log_summary(self, figures: Mapping[str, float | str], step: int) -> None:
        """Log what came out of the run, or of one of its phases."""
        self._tell(lambda tracker: tracker.summary(figures, step))

    def keep(self, name: str, kind: str, file: Path) -> None:
        """Keep a file that the run has made, where there is a place for files; one that is not there is left out."""
        if file.exists():
            self._tell(lambda tracker: tracker.keep(name, kind, file))

    def flush(self) -> None:
        """Write what has been logged so far."""
        self._tell(lambda tracker: tracker.flush())

    def close(self) -> None:
        """Write what is left, and say how to send an offline run to W&B. A second call does nothing."""
        self._tell(lambda tracker: tracker.close())
        self._trackers = []


def _reason(error: Exception) -> str:
    """An error in one line."""
    words = str(error).split() or [type(error).__name__]
    return " ".join(words) if isinstance(error, UserError) else f"{type(error).__name__}: {' '.join(words)}"
