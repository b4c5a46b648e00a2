"""Where a run's figures and pictures are logged: Weights & Biases, a CSV file, or nowhere."""

from __future__ import annotations

import csv
import netrc
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from torch import Tensor

from ids3d.errors import UserError
from ids3d.experiment import Experiment
from ids3d.pictures import to_bytes

if TYPE_CHECKING:
    from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

PROJECT = "ids3d"


def loggers_for(experiment: Experiment, folder: Path, resume: bool = False) -> list[Logger]:
    """The Lightning loggers of one run; each of its trainers is given the same ones, and `finish` is the last call.

    CSV and W&B with `tracking=wandb`, CSV alone with `tracking=csv`, none with `tracking=none`. W&B runs offline,
    asking and sending nothing, where there is no API key or WANDB_MODE says so.

    Args:
        experiment: its `tracking` says which loggers; W&B is given all its settings.
        folder: the run's folder. CSV goes to `metrics.csv` in it, W&B's own files to `wandb/`.
        resume: go on with the file and the W&B run that are there already, instead of starting new ones.

    Raises UserError when there is a key but W&B's service cannot be reached within a minute or refuses it.
    """
    loggers: list[Logger] = []
    if experiment.tracking != "none":
        loggers.append(_csv_logger(folder, resume))
    if experiment.tracking == "wandb":
        loggers.append(_wandb_logger(experiment, folder, resume))
    return loggers


def log_picture(loggers: Iterable[Logger], name: str, picture: Tensor, step: int) -> None:
    """A picture (H, W, 3) in [0, 1], on any device, to the loggers that take pictures: W&B."""
    for logger in _wandb_loggers(loggers):
        logger.log_image(name, [to_bytes(picture)], step)


def log_video(loggers: Iterable[Logger], name: str, file: Path, step: int) -> None:
    """A film (an .mp4 file) to the loggers that take films: W&B."""
    for logger in _wandb_loggers(loggers):
        logger.log_video(name, [str(file)], step, format=["mp4"])


def finish(loggers: Iterable[Logger]) -> None:
    """Writes what the loggers still hold and closes them, and says how to send an offline run to W&B."""
    loggers = list(loggers)
    for logger in loggers:
        logger.save()
    for wandb_logger in _wandb_loggers(loggers):
        run = wandb_logger.experiment
        folder, offline = Path(run.dir).parent, run.offline
        run.finish()
        if offline:
            print(f"W&B ran offline; to send this run to your account: wandb sync {folder}")


def _wandb_loggers(loggers: Iterable[Logger]) -> list[WandbLogger]:
    from pytorch_lightning.loggers import WandbLogger

    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


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


def _wandb_logger(experiment: Experiment, folder: Path, resume: bool) -> WandbLogger:
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
            group=experiment.name,
            name=f"{experiment.name}/{experiment.tag}",
            id=former[-1].name.rpartition("-")[2] if former else None,
            resume="allow",
            dir=folder,
            config=experiment.to_mapping(),
            mode="offline" if offline else None,
            settings=wandb.Settings(silent=True, console="off", init_timeout=60),
        )
    except wandb.Error as error:
        raise UserError(f"W&B: {error}; set WANDB_MODE=offline, or use tracking=csv") from error
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run, project=PROJECT, save_dir=folder)
