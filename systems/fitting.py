"""How every LightningModule here is trained: steps without epochs, a progress line, exact resume."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from ids3d.data.step_batches import StepDataModule
from ids3d.errors import RunFailed
from ids3d.progress import Progress
from ids3d.systems.averaging import AveragingStrategy
from ids3d.systems.checkpoints import TensorCheckpoints
from ids3d.systems.divergence import IN_A_ROW, ROLLBACKS, FiniteSteps, GoBack, Watch
from ids3d.systems.ranks import Ranks, is_lost_rank
from ids3d.systems.resuming import ANEW, ResumeCheckpoint
from ids3d.systems.storage import DamagedFile

log = logging.getLogger(__name__)


class StepProgress(pl.Callback):
    """`Progress` over a training's steps, with the figures that the module logs with prog_bar=True."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._progress: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._progress = Progress(self.label, total=trainer.max_steps, done=trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._progress is not None:
            figures = trainer.progress_bar_metrics
            self._progress.advance(" ".join(f"{k.rsplit('/', 1)[-1]} {v:.4g}" for k, v in figures.items()))

    def on_train_end(self, *_: Any) -> None:
        self._close()

    def on_exception(self, *_: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None


def fit(
    module: pl.LightningModule,
    data: StepDataModule,
    steps: int,
    *,
    label: str,
    device: torch.device,
    resume: ResumeCheckpoint,
    watch: Watch | None = None,
    begin: Callable[[int], None] | None = None,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
    validate_every: int = 0,
    log_every: int = 20,
) -> None:
    """Train `module` for `steps` optimiser steps in all, from `resume`'s checkpoint on if it is there.

    Args:
        label: the phase's name, for the progress line.
        watch: for numbers that are not finite; the module's own, where it has one.
        begin: called with the step that the training goes on from, whenever it does.
        callbacks: Lightning's, to look on.
        validate_every: steps between two validations; 0 = none.

    Raises:
        Interrupted: a stop was asked for; the state is saved.
        UserError: there are checkpoints, but of other settings, or none that can be read; or one cannot be written.
        RunFailed: its numbers do not stay finite; the last good state is saved.
    """
    watch = watch or Watch()
    while True:
        resume.has_begun = False
        if begin is not None:
            begin(resume.steps_done if resume.found else 0)
        trainer = pl.Trainer(
            **_processes(device, resume.ranks),
            max_steps=steps,
            max_epochs=-1,
            logger=list(loggers) or False,
            callbacks=[*([StepProgress(label)] if resume.ranks.is_first else []), *callbacks, watch, resume],
            val_check_interval=validate_every or None,
            check_val_every_n_epoch=None,
            limit_val_batches=data.held_out if validate_every else 0,
            num_sanity_val_steps=0,
            log_every_n_steps=log_every,
            plugins=[TensorCheckpoints(), FiniteSteps(watch)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume.found, weights_only=True)
            return
        except GoBack:
            _go_back(label, resume, watch)
        except SystemExit as left:  # how Lightning ends a training that was interrupted for the second time
            if isinstance(left.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            elsewhere = isinstance(error, torch.OutOfMemoryError) or is_lost_rank(error)
            if resume.found is None or resume.has_begun or elsewhere:
                raise
            resume.ranks.dismiss()
            raise DamagedFile(resume.found, ANEW) from error


def _processes(device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """What a Trainer is told of devices and processes."""
    accelerator = "cuda" if device.type == "cuda" else "cpu"
    if ranks.devices * ranks.nodes == 1:
        devices: Any = [device.index or 0] if device.type == "cuda" else 1
        return {"accelerator": accelerator, "devices": devices}
    return {
        "accelerator": accelerator,
        "devices": ranks.devices,
        "num_nodes": ranks.nodes,
        "strategy": AveragingStrategy(),
        "use_distributed_sampler": False,  # every process validates on all views, so that any one's figures are right
    }


def _go_back(label: str, resume: ResumeCheckpoint, watch: Watch) -> None:
    """Have the training go on from its last good state, or raise RunFailed where it has done so often enough."""
    given_up = watch.rollbacks >= ROLLBACKS

    def kept() -> int:
        step, checkpoint = watch.go_back()
        resume.replace(checkpoint)
        return step

    step = resume.ranks.first(kept)
    resume.forget()
    if given_up:
        resume.ranks.dismiss()
        raise RunFailed(
            f"{label}: {IN_A_ROW} steps in a row are not finite, even at {watch.share * 2:g} of the rates; the last "
            f"good state, of step {step}, is kept in {resume.path}: lower the rates, under another tag, or if the "
            "prior computes in half precision, take prior.dtype=float32"
        )
    log.warning(
        "%s: %d steps in a row are not finite: back to step %d, at %g of the rates",
        *(label, IN_A_ROW, step, watch.share),
    )


def quieten_lightning() -> None:
    """Silence what Lightning says about itself; what it says about the run stays."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*`Trainer.fit` stopped.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
    ):
        warnings.filterwarnings("ignore", message)
