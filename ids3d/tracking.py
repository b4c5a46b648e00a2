"""Log a run's figures and images: to Weights & Biases, to a CSV file, or nowhere."""

from __future__ import annotations

import csv
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from torch import Tensor

from ids3d.errors import UserError
from ids3d.experiment import Job
from ids3d.images import to_bytes

if TYPE_CHECKING:
    from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

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
        resume: append to the file and the W&B run that are there already, instead of starting new ones.

    Raises:
        UserError: there is a key, but W&B's service refuses it or cannot be reached within a minute.
    """

    def __init__(self, job: Job, folder: Path, resume: bool = False) -> None:
        self.loggers: list[Logger] = []
        self._wandb: WandbLogger | None = None
        if job.tracking != "none":
            self.loggers.append(_csv_logger(folder, resume))
        if job.tracking == "wandb":
            self._wandb = _wandb_logger(job, folder, resume)
            self.loggers.append(self._wandb)

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
        for logger in self.loggers:
            logger.save()
        if self._wandb is not None:
            run = self._wandb.experiment
            folder, offline = Path(run.dir).parent, run.offline
            run.finish()
            if offline:
                print(f"W&B ran offline; to send this run to your account: wandb sync {folder}")
        self.loggers, self._wandb = [], None


def _csv_logger(folder: Path, resume: bool) -> CSVLogger:
    """Return Lightning's CSV logger, made to write to `folder/metrics.csv`."""
    from pytorch_lightning.loggers import CSVLogger
    from pytorch_lightning.loggers.csv_logs import ExperimentWriter

    class Writer(ExperimentWriter):
        """Lightning's, without the check that deletes the file of a run that is resumed."""

        def _check_log_dir_exists(self) -> None:
            if Path(self.metrics_file_path).exists():
                with Path(self.metrics_file_path).open(newline="") as file:
                    self.metrics_keys = list(next(csv.reader(file), []))

    if not resume:
        (folder / "metrics.csv").unlink(missing_ok=True)
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
