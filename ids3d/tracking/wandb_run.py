"""Weights & Biases: one run for an experiment, however often it is stopped, killed and gone on with."""

from __future__ import annotations

import json
import logging
import netrc
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor

from ids3d.errors import UserError
from ids3d.experiment import Job
from ids3d.files import atomic_write
from ids3d.images import to_bytes
from ids3d.reading import plain_file
from ids3d.tracking.protocol import Curve, Row, Subject, Tracker

log = logging.getLogger(__name__)

PROJECT = "ids3d"
RESERVED = 100  # numbers of history rows that are set aside at once
WRITE_SECONDS = 0.1  # between two times that W&B writes what it was given to its file
FINISH_SECONDS = 300  # that the upload at the end may take
LONGEST_GROUP = 128  # characters


class WandbRun(Tracker):
    """Logs to a run of W&B: offline, without a question or a request, where there is no API key, or WANDB_MODE says so.

    Each figure is drawn over the steps of its own phase (`edit/psnr` over `edit/step`), each curve over its own axis.
    W&B numbers the rows of a run's history, and takes none with a lesser number than the one before: a resumed run
    goes on with higher ones. Offline, W&B does not know what those before it had; `wandb/ids3d.json` does.

    Args:
        job: W&B is given all its settings.
        folder: the run's; W&B's files go to `wandb/` in it.
        subject: what the run is about: it is grouped by that, and its prompts are among the settings.
        resume: go on with the run that `folder` holds.

    Raises UserError: there is a key, but the service refuses it or cannot be reached within a minute.
    """

    label = "W&B"

    def __init__(self, job: Job, folder: Path, subject: Subject, resume: bool) -> None:
        import wandb

        self.offline = is_offline()
        if self.offline:
            print("W&B: no API key, or WANDB_MODE=offline: this run is logged on this machine only")
        self._state = folder / "wandb" / "ids3d.json"
        run_id, last_row = _read_state(self._state) if resume else (None, 0)
        self._wandb, self._folder, self._axes = wandb, job.folder, set[str]()
        try:
            self._run = wandb.init(
                project=PROJECT,
                group=subject.group(job.name)[:LONGEST_GROUP],
                name=f"{job.name}/{job.tag}",
                id=run_id,
                resume="allow" if run_id else None,
                dir=folder,
                config=_config(job, subject),
                mode="offline" if self.offline else None,
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    init_timeout=60,
                    finish_timeout=FINISH_SECONDS,
                    finish_timeout_raises=True,
                    x_transaction_log_flush_interval=WRITE_SECONDS,
                ),
            )
        except wandb.Error as error:
            raise UserError(f"W&B: {error}; set WANDB_MODE=offline, or use tracking=csv") from error
        # W&B's own log is a file in the run's folder, and complains on the terminal when that is full or gone.
        logging.getLogger("wandb").handlers = [logging.NullHandler()]
        self._row = self._reserved = max(last_row, self._run.step)
        self._reserve()

    def _reserve(self) -> None:
        """Note numbers of rows that are going to be used; a run that is killed leaves some of them out."""
        self._reserved = self._row + RESERVED
        with atomic_write(self._state) as file:
            file.write_text(json.dumps({"id": self._run.id, "rows": self._reserved}) + "\n", encoding="utf-8")

    def _log(self, data: Mapping[str, Any]) -> None:
        self._row += 1
        if self._row > self._reserved:
            self._reserve()
        self._run.log(dict(data), step=self._row, commit=True)

    def _on_step(self, data: Mapping[str, Any], step: int) -> None:
        """Log what is drawn over steps, each over those of its own part of the run: a/b over a/step."""
        steps = {f"{name.partition('/')[0]}/step" if "/" in name else "step" for name in data}
        for axis in steps - self._axes:
            self._run.define_metric(axis, hidden=True)
            if axis != "step":
                self._run.define_metric(f"{axis.partition('/')[0]}/*", step_metric=axis)
        self._axes |= steps
        self._log({**data, **dict.fromkeys(steps, step)})

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        self._on_step(figures, step)

    def panel(self, name: str, image: Tensor, step: int) -> None:
        self._on_step({name: self._image(image)}, step)

    def _image(self, image: Tensor) -> Any:
        return self._wandb.Image(to_bytes(image))

    def video(self, name: str, file: Path, step: int) -> None:
        self._on_step({name: self._wandb.Video(str(file), format="mp4")}, step)

    def curve(self, curve: Curve) -> None:
        self._run.define_metric(curve.axis, hidden=True)
        self._run.define_metric(curve.name, step_metric=curve.axis)
        for x, y in curve.points:
            self._log({curve.axis: x, curve.name: y})

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        pictures = list(dict.fromkeys(column for row in rows for column in row.images))
        others = list(dict.fromkeys(column for row in rows for column in row.cells))
        table = self._wandb.Table(columns=["name", *pictures, *others])
        for row in rows:
            shown = (self._image(row.images[c]) if c in row.images else None for c in pictures)
            table.add_data(row.name, *shown, *(row.cells.get(c) for c in others))
        self._on_step({name: table}, step)

    def summary(self, figures: Mapping[str, float | str], step: int) -> None:
        self._log({k: v for k, v in figures.items() if isinstance(v, int | float)})
        self._run.summary.update(dict(figures))

    def keep(self, name: str, kind: str, file: Path) -> None:
        artifact = self._wandb.Artifact(f"{name}-{self._run.id}", type=kind)
        artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def flush(self) -> None:
        """Wait until W&B has written what it was given: a checkpoint that is saved now is not to be ahead of it."""
        time.sleep(3 * WRITE_SECONDS)

    def close(self) -> None:
        sync = f"wandb sync {self._folder / 'wandb'}/*run-*-{self._run.id}*"
        try:
            self._run.finish()
        except TimeoutError:
            raise UserError(f"not uploaded within {FINISH_SECONDS} s; to upload the rest: {sync}") from None
        if self.offline:
            print(f"W&B ran offline; to send this run to your account: {sync}")

    def abandon(self) -> None:
        """End W&B's service, which would else be waited for at the end."""
        self._wandb.teardown(exit_code=1)


def _config(job: Job, subject: Subject) -> dict[str, Any]:
    """All settings, with the prompts that are used."""
    config = job.to_mapping()
    if subject.prompts is not None:
        config["prompt"] = dict(zip(("source", "target"), subject.prompts, strict=True))
    return config


def _read_state(file: Path) -> tuple[str | None, int]:
    """The id and the last row of the run that is gone on with; (None, 0) where there is none, or a damaged one."""
    try:
        state = json.loads(plain_file(file).read_text(encoding="utf-8"))
        return str(state["id"]), int(state["rows"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        log.warning("%s is damaged: W&B begins another run", file)
    return None, 0


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
