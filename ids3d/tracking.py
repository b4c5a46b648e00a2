"""Log a run's figures and images: to Weights & Biases, to a CSV file, or nowhere."""

from __future__ import annotations

import csv
import io
import logging
import math
import netrc
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from torch import Tensor

from ids3d.errors import UserError
from ids3d.experiment import Job
from ids3d.files import atomic_write, cannot_write
from ids3d.images import to_bytes
from ids3d.reading import plain_file

if TYPE_CHECKING:
    from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

log = logging.getLogger(__name__)

PROJECT = "ids3d"


class Tracking:
    """The Lightning loggers of one run, and the images that go with them.

    `loggers` is for `pl.Trainer(logger=...)`: CSV and W&B with `tracking=wandb`, CSV alone with `tracking=csv`, and
    none with `tracking=none`. Every trainer of the run is given the same ones. Images go to W&B only; on disk they
    are in the run's `renders/` whatever the tracking.

    W&B runs offline, without a question or a request, where there is no API key or WANDB_MODE says so.

    Args:
        job: its `tracking` says which loggers; W&B is given all its settings.
        folder: the run's folder. CSV goes to `metrics.csv` in it, W&B's own files to `wandb/`.

    Nothing is written, and `loggers` is empty, before `open`.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.phase = ""  # what metrics.csv says in a column of that name
        self.loggers: list[Logger] = []
        self._wandb: WandbLogger | None = None

    def open(self, resume: bool = False) -> Tracking:
        """Start to log, and return this.

        Args:
            resume: append to the file and the W&B run that are there already, instead of starting new ones.

        Raises:
            UserError: there is a key, but W&B's service refuses it or cannot be reached within a minute.
        """
        if self.job.tracking == "wandb":
            self._wandb = _wandb_logger(self.job, self.folder, resume)
        if self.job.tracking != "none":
            self.loggers.append(_csv_logger(self, resume))
        if self._wandb is not None:
            self.loggers.append(self._wandb)
        return self

    def begin(self, phase: str, step: int) -> None:
        """Log what comes as of a phase that stands at a step; what is logged of its later steps is done again."""
        self.flush()
        self.phase = phase
        if self.job.tracking != "none":
            drop_rows(self.folder / "metrics.csv", phase, step)

    def flush(self) -> None:
        """Write what has been logged so far."""
        for logger in self.loggers:
            logger.save()

    def log_panel(self, name: str, images: Mapping[str, Tensor], step: int) -> None:
        """Log images that belong side by side, by caption ((h, w, 3) in [0, 1], any device), under `name`."""
        if self._wandb is not None:
            self._wandb.log_image(name, [to_bytes(i) for i in images.values()], step, caption=list(images))

    def log_video(self, name: str, file: Path, step: int) -> None:
        """Log a video (an .mp4 file) under `name`."""
        if self._wandb is not None:
            self._wandb.log_video(name, [str(file)], step, format=["mp4"])

    def close(self) -> None:
        """Write what is left, and say how to send an offline run to W&B. A second call does nothing."""
        self.flush()
        if self._wandb is not None:
            run = self._wandb.experiment
            folder, offline = Path(run.dir).parent, run.offline
            run.finish()
            if offline:
                print(f"W&B ran offline; to send this run to your account: wandb sync {folder}")
        self.loggers, self._wandb = [], None


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
    """Write metrics.csv anew, whole or not at all."""
    with atomic_write(file) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as opened:
        table = csv.DictWriter(opened, columns)
        table.writeheader()
        table.writerows(rows)


def _csv_logger(tracking: Tracking, resume: bool) -> CSVLogger:
    """Return Lightning's CSV logger, made to write to `metrics.csv` in the run's folder."""
    from pytorch_lightning.loggers import CSVLogger
    from pytorch_lightning.loggers.csv_logs import ExperimentWriter

    folder = tracking.folder
    file = folder / "metrics.csv"

    class Writer(ExperimentWriter):
        """Lightning's, with a column for the phase, which goes on with the file that is there, and never breaks it."""

        def _check_log_dir_exists(self) -> None:
            set_aside_damaged(file)
            drop_rows(file, "", math.inf)  # of none: mend the last line
            if file.exists():
                with file.open(newline="", encoding="utf-8") as opened:
                    self.metrics_keys = list(next(csv.reader(opened), []))

        def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
            row: dict[str, Any] = {**metrics_dict, "phase": tracking.phase}
            super().log_metrics(row, step)

        def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
            with file.open(newline="", encoding="utf-8") as opened:
                rows = list(csv.DictReader(opened))
            write_rows(file, fieldnames, rows)

        def save(self) -> None:
            try:
                super().save()
            except OSError as error:
                raise cannot_write(file, error) from error

    if not resume:
        file.unlink(missing_ok=True)
    logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=50)
    logger._experiment = Writer(str(folder))
    return logger


def is_offline() -> bool:
    """Tell whether W&B is to run without its service: WANDB_MODE says so, or there is no API key."""
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return mode in ("offline", "dryrun")
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return False
    import wandb

    settings = wandb.setup().settings
    return not (settings.api_key or in_netrc(urlsplit(settings.base_url).hostname or ""))


def in_netrc(host: str) -> bool:
    """Tell whether the user's netrc file, where `wandb login` puts the key, has one for `host`."""
    places = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for place in (Path(place).expanduser() for place in places):
        try:
            if place.is_file() and netrc.netrc(place).authenticators(host):
                return True
        except netrc.NetrcParseError as error:
            raise UserError(f"{place} cannot be read ({error}): mend it, or use tracking=csv") from None
    return False


def _wandb_logger(job: Job, folder: Path, resume: bool) -> WandbLogger:
    """Return Lightning's W&B logger with its run started, so that what can fail does so now."""
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    offline = is_offline()
    if offline:
        print("W&B: no API key, or WANDB_MODE=offline: this run is logged on this machine only")
    earlier = sorted((folder / "wandb").glob("*run-*-*")) if resume else []
    try:
        run = wandb.init(
            project=PROJECT,
            group=job.name,
            name=f"{job.name}/{job.tag}",
            id=earlier[-1].name.rpartition("-")[2] if earlier else None,
            resume="allow" if earlier else None,
            dir=folder,
            config=job.to_mapping(),
            mode="offline" if offline else None,
            settings=wandb.Settings(silent=True, console="off", init_timeout=60),
        )
    except wandb.Error as error:
        raise UserError(f"W&B: {error}; set WANDB_MODE=offline, or use tracking=csv") from error
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run, project=PROJECT, save_dir=folder)
