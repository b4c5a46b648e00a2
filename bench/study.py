"""What every study of this package is: a command with options of its own, run in a context that all studies share."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ids3d
from ids3d.bench.methods import Method
from ids3d.bench.store import Store
from ids3d.cli import ArgumentParser
from ids3d.config import find_config
from ids3d.device import pick_device
from ids3d.experiment import ImageJob, load
from ids3d.models.priors.protocol import Prior
from ids3d.report.page import Report

METHODS_VERSION = 5
"""Part of what names stored results. Raise it with every change to the code (guidance, samplers, priors, systems,
metrics or a study) after which the same settings give other figures: stored results know their settings only."""


@dataclass(frozen=True)
class Study:
    """A study as a command, `python -m ids3d.bench <name>`.

    Attributes:
        name: of the command, and of the folder that its report goes to.
        help: one line for `--help`.
        add_options: adds what only some studies take; see ids3d.bench.options.
        run: does what the parsed arguments say; its second argument is the command line, for the report.
    """

    name: str
    help: str
    add_options: Callable[[ArgumentParser], None]
    run: Callable[[argparse.Namespace, str], Report]


@dataclass(frozen=True)
class StudyConfig:
    """The YAML files and overrides that say what all methods of a study share: prior, guidance settings, the loop."""

    files: tuple[Path, ...]
    overrides: tuple[str, ...]

    def job(self, *more: str) -> ImageJob:
        """The job that they describe, and overrides after them. Raises UserError."""
        job = load(self.files, ["name=bench", "data=files", *self.overrides, *more])
        assert isinstance(job, ImageJob)
        job.check()
        return job

    def method(self, name: str, *more: str) -> Method:
        """A method with these settings, and overrides after them. Raises UserError."""
        job = self.job(f"guidance={name}", *more)
        settings, loop = job.guidance.to_mapping(), job.edit.settings()
        del settings["type"]
        return Method(name, settings, loop.steps, loop.lr)


@dataclass(frozen=True)
class StudyContext:
    """What every study is given.

    Attributes:
        config: what all methods share.
        prior: the diffusion model that all methods use.
        store: where finished work is kept.
        seed: determines all that is drawn, with the names of images and the numbers of steps.
        identity: what determines results besides method, edits and seed, as JSON values; part of what names them.
        command: the command line.
    """

    config: StudyConfig
    prior: Prior
    store: Store
    seed: int
    identity: Mapping[str, Any]
    command: str


def open_context(
    arguments: argparse.Namespace,
    command: str,
    steps: int | None = None,
    overrides: Sequence[str] | None = None,
) -> StudyContext:
    """Load the prior and open the store that the arguments name. Raises UserError.

    Args:
        steps: of gradient methods; None: as the config says.
        overrides: those that say what all methods share; None: all of the command line's.
    """
    store = Store(arguments.out)
    files = tuple(find_config(file) for file in arguments.config)
    chosen = arguments.overrides if overrides is None else overrides
    config = StudyConfig(files, (*chosen, *([f"edit.steps={steps}"] if steps else [])))
    job = config.job()
    prior: Prior = job.prior.build().to(pick_device(arguments.device))
    settings = job.to_mapping()["prior"]
    settings.pop("path", None)  # the digest of the weights says which they are, wherever they lie
    identity = {
        "prior": settings,
        "version": ids3d.__version__,
        "methods_version": METHODS_VERSION,
        "weights": weights_digest(prior),
        "metrics": [arguments.clip, arguments.lpips],
        "folder": str(Path(arguments.folder).resolve()) if arguments.folder else "",
    }
    return StudyContext(config, prior, store, arguments.seed, identity, command)


def weights_digest(prior: Prior) -> str:
    """Return 16 hexadecimal digits of what the prior predicts, to three digits: they tell weights from others."""
    z = torch.randn(1, prior.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        t = torch.tensor([prior.schedule.num_timesteps // 2], device=prior.device)
        eps = prior.predict_noise(z.to(prior.device), t, prior.embed([""]), 1.0).float().cpu()
    rounded = [f"{x:.2e}" for x in eps.mean(dim=(0, 2, 3)).tolist()]
    return hashlib.sha256(str(rounded).encode()).hexdigest()[:16]
