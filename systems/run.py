"""One run from start to end: reconstruct a scene (or take the reconstruction that is there), edit it, evaluate."""

from __future__ import annotations

import copy
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import ids3d
from ids3d.errors import UserError
from ids3d.experiment import SceneJob
from ids3d.files import atomic_write
from ids3d.metrics import mean_of_finite, psnr
from ids3d.models.priors.protocol import Prior
from ids3d.models.renderers.protocol import Renderer
from ids3d.progress import track
from ids3d.provenance import record
from ids3d.scene import Scene
from ids3d.systems.edit_scene.protocol import SceneEdit
from ids3d.systems.evaluate.held_out import show_reconstruction
from ids3d.systems.loop import GracefulStop, ResumeCheckpoint, train
from ids3d.systems.report import report_scene
from ids3d.systems.storage import Figures, fingerprint, memory_figures, write_json
from ids3d.tracking import Tracking

log = logging.getLogger(__name__)


class SceneRun:
    """What the phases of one run share.

    Args:
        experiment: the config; `experiment.folder` is the run's folder.

    Everything that can be wrong with the config, the scene or the prompts is found when this is made, before any
    training: raises UserError.
    """

    def __init__(self, experiment: SceneJob, stop: GracefulStop) -> None:
        experiment.check()
        self.experiment, self.stop, self.folder = experiment, stop, experiment.folder
        self.device = pick_device(experiment.device)
        self.checkpoints = self.folder / "checkpoints"
        self.go_on = f"To go on: python launch.py --resume {self.folder}"
        self.scene: Scene = experiment.data.build().load()
        self.prompts = prompts_of(experiment, self.scene) if experiment.stage == "all" else ("", "")
        self.seconds_before = 0.0  # spent in training by the processes that this one goes on from

    def check(self) -> None:
        """Raises Interrupted if a stop is wanted. For the phases that keep nothing but what is on the disk already."""
        self.stop.check(f"stopped; what is finished is saved. {self.go_on}")

    def load_prior(self) -> Prior:
        prior: Prior = self.experiment.prior.build().to(self.device)
        if self.experiment.prior.type == "tabletop":
            warn_if_foreign(prior, self.prompts, self.scene)
        return prior

    def build_renderer(self) -> Renderer:
        """An untrained field and its renderer, the same for the same seed."""
        scene = self.scene
        torch.manual_seed(self.experiment.seed)
        geometry = self.experiment.geometry.build(scene.bounds)
        renderer: Renderer = self.experiment.renderer.build(geometry, scene.bounds)
        return renderer.to(self.device)

    def reconstruction_key(self) -> str:
        """Names the reconstruction: a digest of the pictures, the cameras, and every setting that shapes the field."""
        settings = self.experiment.to_mapping()
        shaping = {key: settings[key] for key in ("geometry", "renderer", "reconstruct", "seed")}
        return fingerprint({**shaping, "version": ids3d.__version__, "scene": self.scene.digest})

    def edit_key(self) -> str:
        """A digest of all that determines the edit."""
        settings = self.experiment.to_mapping()
        shaping = {key: settings[key] for key in ("prior", "guidance", "edit", "seed")}
        return fingerprint({**shaping, "prompts": self.prompts, "reconstruction": self.reconstruction_key()})

    def reconstruct(self, tracking: Tracking) -> tuple[Renderer, Figures]:
        """The reconstructed field: read if it is there, made otherwise; and its figures."""
        key = self.reconstruction_key()
        place = Path(self.experiment.output) / "reconstructions" / key
        field, finished = place / "field.pt", place / "metrics.json"
        renderer = self.build_renderer()
        if finished.exists():
            log.info("reconstruction: using %s", place)
            renderer.load_state_dict(torch.load(field, map_location=self.device, weights_only=True))
            return renderer, json.loads(finished.read_text())
        module = self.experiment.reconstruct.build(renderer, self.scene, self.experiment.seed)
        seconds = self._train(module, "reconstructing", place / "interrupted.ckpt", key, tracking)
        renderer.to(self.device)
        figures: Figures = {
            "reconstruction/psnr": self._held_out_psnr(renderer),
            "reconstruction/seconds": seconds,
        }
        with atomic_write(field) as file:
            torch.save(renderer.state_dict(), file)
        write_json(finished, figures)
        (place / "interrupted.ckpt").unlink(missing_ok=True)
        return renderer, figures

    def _held_out_psnr(self, renderer: Renderer) -> float:
        test, values = self.scene.test, []
        for i in track(range(len(test)), "held-out views"):
            values.append(psnr(renderer.render(test.cameras[i].to(self.device)).rgb.cpu(), test.images[i]))
        return mean_of_finite(values)

    def edit(self, source: Renderer, prior: Prior, tracking: Tracking) -> tuple[Renderer, float]:
        """The edited field: read if this run's editing is finished, made otherwise; and the seconds it took."""
        experiment, last, key = self.experiment, self.checkpoints / "last.ckpt", self.edit_key()
        edited = copy.deepcopy(source)
        if last.exists():
            return edited, self.load_edited(edited)
        guidance = experiment.guidance.build(prior)
        module = experiment.edit.build(
            edited, SceneEdit(self.scene, source, prior, guidance, self.prompts, experiment.seed)
        )
        interrupted = self.checkpoints / "interrupted.ckpt"
        seconds = self._train(module, "editing", interrupted, key, tracking)
        edited.to(self.device)
        state = {"settings": key, "seconds": seconds, "renderer": edited.state_dict()}
        with atomic_write(last) as file:
            torch.save(state, file)
        interrupted.unlink(missing_ok=True)
        return edited, seconds

    def load_edited(self, renderer: Renderer) -> float:
        """Reads checkpoints/last.ckpt into `renderer`; the seconds that the editing took. Raises UserError."""
        last = self.checkpoints / "last.ckpt"
        if not last.exists():
            raise UserError(f"there is no {last}: nothing has been edited in {self.folder} yet")
        state = torch.load(last, map_location=self.device, weights_only=True)
        if state["settings"] != self.edit_key():
            raise UserError(
                f"{last} is of a run with other settings: give this run another tag, or delete that file"
            )
        renderer.load_state_dict(state["renderer"])
        return float(state["seconds"])

    def _train(
        self, module: pl.LightningModule, label: str, interrupted: Path, key: str, tracking: Tracking
    ) -> float:
        cfg: Any = module.cfg
        resume = ResumeCheckpoint(self.stop, interrupted, key, self.go_on)
        train(
            module,
            cfg.steps,
            label=label,
            views=len(self.scene.test),
            device=self.device,
            resume=resume,
            loggers=tracking.loggers,
            validate_every=cfg.validate_every,
            log_every=cfg.log_every,
        )
        self.seconds_before += resume.seconds_before
        return resume.seconds


def run(experiment: SceneJob, test: bool = False) -> Figures:
    """Reconstruct, edit and evaluate as `experiment` says. Leaves everything in `experiment.folder`.

    A folder with an unfinished run of the same settings is gone on with; a finished one is done again.

    Args:
        test: only evaluate: the folder's edited field, again.

    Returns:
        The figures of metrics.json.

    Raises:
        UserError: something is wrong that the user can put right; found before any training.
        Interrupted: Ctrl-C or SIGTERM; the message says how to go on.
    """
    start = time.monotonic()
    quieten_lightning()
    with GracefulStop() as stop:
        job = SceneRun(experiment, stop)
        prior = job.load_prior() if experiment.stage == "all" and not test else None
        if (job.folder / "metrics.json").exists() and not test:
            for old in ("metrics.json", "checkpoints/last.ckpt", "checkpoints/interrupted.ckpt"):
                (job.folder / old).unlink(missing_ok=True)
        if not test:
            record(experiment)
        going_on = test or job.checkpoints.exists()
        tracking = Tracking(experiment, job.folder, resume=going_on)
        try:
            figures = phases(job, prior, tracking, test)
        finally:
            tracking.close()
    if experiment.stage == "all":
        figures["guidance"] = experiment.guidance.type
    figures["time/total_seconds"] = time.monotonic() - start + job.seconds_before
    figures.update(memory_figures(job.device))
    if experiment.stage == "all":
        report_scene(experiment, job.prompts, figures)
    write_json(job.folder / "metrics.json", figures)
    return figures


def phases(job: SceneRun, prior: Prior | None, tracking: Tracking, test: bool) -> Figures:
    """Reconstruct, edit, evaluate; without the edit for `stage=reconstruct` (no prior) and for a test."""
    experiment = job.experiment
    if test:
        job.load_edited(job.build_renderer())  # complain before a missing reconstruction is made again
    source, figures = job.reconstruct(tracking)
    job.check()
    if experiment.stage == "reconstruct":
        show_reconstruction(job.scene, source, job.folder, job.device, job.check)
        return figures
    if prior is None:
        edited = copy.deepcopy(source)
        figures["edit/seconds"] = job.load_edited(edited)
    else:
        edited, figures["edit/seconds"] = job.edit(source, prior, tracking)
    job.check()
    evaluation = experiment.evaluate.build(
        job.scene, job.prompts[1], job.folder, job.device, job.check, tracking
    )
    steps = experiment.edit.settings().steps
    figures.update(evaluation.figures(source, edited, steps))
    evaluation.film(source, edited, steps)
    return figures


def prompts_of(experiment: SceneJob, scene: Scene) -> tuple[str, str]:
    """(source, target): the config's, or else the scene's own captions. Raises UserError where there is neither."""
    given = (experiment.prompt.source, experiment.prompt.target)
    source, target = (
        text if text is not None else scene.captions[i] if scene.captions else ""
        for i, text in enumerate(given)
    )
    for name, text in (("source", source), ("target", target)):
        if not text.strip():
            raise UserError(
                f"prompt.{name} is not given and the scene has no captions.json: say what the scene "
                f'{"shows" if name == "source" else "should become"} with prompt.{name}="..."'
            )
    return source, target


def warn_if_foreign(prior: Prior, prompts: tuple[str, str], scene: Scene) -> None:
    """One warning if the tabletop prior is asked for what it has never seen."""
    unknown = list(dict.fromkeys(word for text in prompts for word in prior.unknown_words(text)))
    captions = scene.captions
    foreign = captions is None or any(prior.unknown_words(text) for text in captions)
    if unknown or foreign:
        words = f"the words {', '.join(unknown)}" if unknown else ""
        place = "scenes like this one" if foreign else ""
        log.warning(
            "the tabletop prior has never met %s, and the edit will mean little: use a prior that has, "
            "with --config ... configs/prior/sd15.yaml (Stable Diffusion, on a GPU)",
            " and ".join(filter(None, (words, place))),
        )


def pick_device(name: str) -> torch.device:
    """cpu, cuda, or auto: CUDA where there is a device. Raises UserError for CUDA where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but PyTorch finds no CUDA device: use device=cpu or device=auto")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def quieten_lightning() -> None:
    """Silences what Lightning says about itself; what it says about the run stays."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*`Trainer.fit` stopped.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
    ):
        warnings.filterwarnings("ignore", message)
