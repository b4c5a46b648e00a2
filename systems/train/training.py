"""What the tabletop models' trainings have in common: batches that depend on the step alone, one way to run and go on.

A step's batch is drawn from (seed, step), not from a loader that remembers where it was, so a training that was killed
and resumed sees the batches that it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from ids3d.cli import launch_command
from ids3d.config.bounds import STEPS, STEPS_OR_NONE, check_bounds
from ids3d.data.step_batches import StepDataModule
from ids3d.device import pick_device
from ids3d.errors import Interrupted, UserError
from ids3d.experiment import TrainingJob
from ids3d.files import locked
from ids3d.images import save_image
from ids3d.provenance import record
from ids3d.systems.divergence import Watch
from ids3d.systems.fitting import fit
from ids3d.systems.lightning_log import TrackingLogger
from ids3d.systems.resuming import ResumeCheckpoint
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import Figures, fingerprint, write_json
from ids3d.tabletop.captions import relations
from ids3d.tabletop.dataset import TabletopDataset, load_dataset
from ids3d.tabletop.scene import HELD_OUT, TabletopScene, sample_camera, sample_scene
from ids3d.tabletop.world import LIGHT, WORLDS, World, save_world
from ids3d.tracking import Tracking

VALIDATION = range(HELD_OUT + 500_000, HELD_OUT + 500_512)
"""Seeds of the pictures that training looks at to report on itself; the evaluation uses others."""

GOOD_EVERY = 1000
"""Steps between two states that are kept to go back to: one has hundreds of megabytes, and a GPU does ten a second."""

Show = Callable[[Tensor, int], None]
"""What a training does with a picture (h, w, 3) of how it stands at a step."""


@dataclass
class TrainingConfig:
    """Settings that the three tabletop trainings share."""

    steps: int = 1000  # steps of the optimiser, AdamW
    batch_size: int = 16  # pictures a step
    learning_rate: float = 1e-3  # AdamW's rate at its highest
    warmup: int = 100  # steps over which the learning rate rises; it then falls to 2 % along a cosine
    weight_decay: float = 0.01  # AdamW's decay of the weights
    pictures: int = 16_000  # scenes that are rendered for training: seeds 0 to this
    size: int = 128  # the pictures' sides, in pixels
    world: str = LIGHT.name  # whose scenes: a name in ids3d.tabletop.world.WORLDS
    data: str = "outputs/tabletop/data"  # where rendered pictures are kept
    into: str = "outputs/tabletop/prior"  # the folder that the trained model is saved into
    sample_every: int = 250  # steps between looks at held-out pictures
    save_minutes: float = 3.0  # minutes of work that a kill may cost: a checkpoint is saved in time; 0 = none
    workers: int = 0  # processes that prepare batches, for a GPU that would wait for them
    half: bool = False  # compute in bfloat16 where that is safe: faster on a GPU, slower on many processors

    def __post_init__(self) -> None:
        check_bounds(
            self, steps=STEPS, warmup=STEPS_OR_NONE, sample_every=STEPS_OR_NONE, save_minutes="[0, 1e6]"
        )
        check_bounds(self, batch_size="[1, 1e5]", learning_rate="(0, 10]", weight_decay="[0, 1000]")
        check_bounds(self, pictures="[1, 1e7]", size="[16, 1024]", workers="[0, 256]")


def chosen_world(cfg: TrainingConfig) -> World:
    """The world of a training. Raises UserError if there is none of that name."""
    if cfg.world not in WORLDS:
        raise UserError(f"train.world: there is no {cfg.world!r}, but {' and '.join(WORLDS)}")
    return WORLDS[cfg.world]


def training_pictures(cfg: TrainingConfig) -> TabletopDataset:
    """The training scenes' pictures (rendered now, if this is the first time)."""
    return load_dataset(range(cfg.pictures), cfg.size, Path(cfg.data), chosen_world(cfg))


def validation_pictures(cfg: TrainingConfig) -> TabletopDataset:
    """Held-out scenes' pictures."""
    return load_dataset(VALIDATION, cfg.size, Path(cfg.data), chosen_world(cfg))


def described(data: TabletopDataset, cfg: TrainingConfig) -> list[tuple[TabletopScene, tuple[str, ...]]]:
    """The scene of each picture, and the relations that its captions can speak of."""
    scenes = [sample_scene(seed, world=chosen_world(cfg)) for seed in data.seeds]
    return [
        (scene, relations(scene, sample_camera(seed, scene, cfg.size)) if len(scene.objects) == 2 else ())
        for seed, scene in zip(data.seeds, scenes, strict=True)
    ]


def as_images(rgb: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 pictures (n, h, w, 3) as (n, 3, h, w) float32 in [-1, 1], what diffusers' autoencoders take."""
    return torch.as_tensor(rgb).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def autocast(module: pl.LightningModule, cfg: TrainingConfig) -> torch.autocast:
    """The context of a step's forward passes: bfloat16 where cfg.half says so."""
    return torch.autocast(module.device.type, torch.bfloat16, enabled=cfg.half)


def optimiser(module: pl.LightningModule, cfg: TrainingConfig) -> OptimizerLRScheduler:
    """AdamW with a linear warm-up and a cosine decay to 2 %, in the form Lightning takes."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    adam = AdamW(
        parameters, lr=cfg.learning_rate, weight_decay=cfg.weight_decay, betas=(0.9, 0.99), fused=True
    )

    schedule = get_cosine_with_min_lr_schedule_with_warmup(adam, cfg.warmup, cfg.steps, min_lr_rate=0.02)
    return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def run(training: TrainingJob) -> None:
    """Train one of the prior's models, from where it was stopped or killed if it was, and save it into cfg.into.

    A training that is stopped saves the weights that it has by then.

    Raises UserError before training for what the user can put right, Interrupted for Ctrl-C.
    """
    training.check()
    cfg = training.train.settings()
    folder = training.folder
    torch.manual_seed(training.seed)
    checkpoint = folder / "checkpoints" / "interrupted.ckpt"
    with GracefulStop() as stop, locked(folder):
        tracking = Tracking(training, folder)

        def show(picture: Tensor, step: int) -> None:
            save_image(folder / "samples" / f"step-{step:06d}.png", picture)
            tracking.log_panel("samples", picture, step)

        module = training.train.build(training.seed, show)
        settings = fingerprint({key: training.to_mapping()[key] for key in ("train", "seed")})
        how = f"To go on: {launch_command()} --config {folder / 'config.yaml'}"
        resume = ResumeCheckpoint(stop, checkpoint, settings, how, cfg.save_minutes, tracking.flush)
        tracking.open(resume=resume.found is not None)
        watch = Watch(GOOD_EVERY)
        record(training, settings)
        try:
            fit(
                module,
                StepDataModule(module.batch_of_step, held_out=1, workers=cfg.workers),
                cfg.steps,
                label=training.name,
                device=pick_device(training.device),
                resume=resume,
                watch=watch,
                begin=partial(tracking.begin, training.name),
                loggers=[TrackingLogger(tracking)],
                validate_every=cfg.sample_every,
            )
        except Interrupted:  # what is there so far can be tried, or gone on from elsewhere
            _save(module, cfg)
            raise
        finally:
            tracking.close()
    _save(module, cfg)
    figures: Figures = {"time/train_seconds": resume.seconds, "train/skipped_steps": watch.skipped}
    write_json(folder / "metrics.json", figures)


def _save(module: Any, cfg: TrainingConfig) -> None:
    module.save()
    save_world(Path(cfg.into), chosen_world(cfg), cfg.size)


def grid(pictures: Tensor, columns: int) -> Tensor:
    """Images (n, 3, h, w) side by side in rows: one picture (rows · h, columns · w, 3)."""
    rows = pictures.detach().float().cpu().permute(0, 2, 3, 1).unflatten(0, (-1, columns))
    return rows.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
