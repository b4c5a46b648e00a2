"""Where a run's figures and pictures are logged: Weights & Biases, a CSV file, or nowhere."""

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
    """The Lightning loggers of one run, and the pictures that go with them.

    `loggers` is for `pl.Trainer(logger=...)`: CSV and W&B with `tracking=wandb`, CSV alone with `tracking=csv`, and
    none with `tracking=none`. Every trainer of the run is given the same ones. Pictures go to W&B only; on the disk
    they lie in the run's `renders/` whatever the tracking.

    W&B runs offline, asking and sending nothing, where there is no API key or WANDB_MODE says so.

    Args:
        job: its `tracking` says which loggers; W&B is given all its settings.
        folder: the run's folder. CSV goes to `metrics.csv` in it, W&B's own files to `wandb/`.
        resume: go on with the file and the W&B run that are there already, instead of starting new ones.

    Raises UserError when there is a key but W&B's service cannot be reached within a minute or refuses it.
    """

    def __init__(self, job: Job, folder: Path, resume: bool = False) -> None:
        self.loggers: list[Logger] = []
        self._wandb: WandbLogger | None = None
        if job.tracking != "none":
            self.loggers.append(_csv_logger(folder, resume))
        if job.tracking == "wandb":
            self._wandb = _wandb_logger(job, folder, resume)
            self.loggers.append(self._wandb)

    def log_panel(self, name: str, pictures: Mapping[str, Tensor], step: int) -> None:
        """Pictures that belong side by side (caption -> (H, W, 3) in [0, 1], any device) under `name`."""
        if self._wandb is not None:
            images = [to_bytes(picture) for picture in pictures.values()]
            self._wandb.log_image(name, images, step, caption=list(pictures))

    def log_video(self, name: str, file: Path, step: int) -> None:
        """A film (an .mp4 file) under `name`."""
        if self._wandb is not None:
            self._wandb.log_video(name, [str(file)], step, format=["mp4"])

    def close(self) -> None:
        """Writes what is left, and says how to send an offline run to W&B. The last call; again, it does nothing."""
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
    """Lightning's CSV logger, writing straight to `folder/metrics.csv`."""
    from pytorch_lightning.loggers import CSVLogger
    from pytorch_lightning.loggers.csv_logs import ExperimentWriter

    class Writer(ExperimentWriter):
        """Without the check by which Lightning's writer deletes the file of a run that is resumed."""

        def _check_log_dir_exists(self) -> None:
            if Path(self.metrics_file_path).exists():
                with Path(self.metrics_file_path).open(newline="") as file:
                    self.metrics_keys = list(next(csv.reader(file), []))

    if not resume:
        (folder / "metrics.csv").unlink(missing_ok=True)
    logger = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=50)
    logger._experiment = Writer(str(folder))
    return logger


def _is_offline() -> bool:
    """Whether W&B is to run without its service: WANDB_MODE says so, or there is no API key."""
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return mode in ("offline", "dryrun")
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return False
    import wandb

    settings = wandb.setup().settings
    return not (settings.api_key or _in_netrc(urlsplit(settings.base_url).hostname or ""))


def _in_netrc(host: str) -> bool:
    """Whether the user's netrc file, where `wandb login` puts the key, has one for `host`."""
    places = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for place in (Path(place).expanduser() for place in places):
        try:
            if place.is_file() and netrc.netrc(place).authenticators(host):
                return True
        except netrc.NetrcParseError as error:
            raise UserError(f"{place} cannot be read ({error}): mend it, or use tracking=csv") from None
    return False


def _wandb_logger(job: Job, folder: Path, resume: bool) -> WandbLogger:
    """Lightning's W&B logger with its run started, so that what can fail does so now."""
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    offline = _is_offline()
    if offline:
        print("W&B: no API key, or WANDB_MODE=offline: this run is logged on this machine only")
    former = sorted((folder / "wandb").glob("*run-*-*")) if resume else []
    try:
        run = wandb.init(
            project=PROJECT,
            group=job.name,
            name=f"{job.name}/{job.tag}",
            id=former[-1].name.rpartition("-")[2] if former else None,
            resume="allow" if former else None,
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
