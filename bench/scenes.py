"""Table 2: scenes reconstructed once and edited by every method, where the true edit is known, and a user's own."""

from __future__ import annotations

import copy
import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from ids3d.bench.edits import Judges, Method, measure
from ids3d.bench.images import Axes, gallery, identity_claim, summary, tradeoff
from ids3d.bench.store import Store
from ids3d.data.step_batches import StepDataModule
from ids3d.errors import UserError
from ids3d.experiment import SceneJob, load
from ids3d.files import atomic_write
from ids3d.images import colour_depth, depth_range, resize
from ids3d.metrics import depth_error, view_consistency
from ids3d.models.priors.protocol import Prior, editing_size
from ids3d.models.renderers.protocol import Renderer
from ids3d.progress import track
from ids3d.report.page import Report
from ids3d.systems.edit_scene.protocol import SceneEdit
from ids3d.systems.edit_scene.pull_back import EditScene
from ids3d.systems.fitting import ResumeCheckpoint, fit
from ids3d.systems.scene_run import SceneEditRun
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import fingerprint
from ids3d.tabletop.edits import held_out_edit
from ids3d.tabletop.folders import write_llff
from ids3d.tabletop.scene import HELD_OUT, forward_cameras, middle, open_side
from ids3d.tracking import Tracking

METHODS = ("sds", "dds", "cds", "pds", "ids")
KINDS = ("recolour", "reshape", "floor")


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    scenes: int = 6  # two of each kind
    size: int = 96  # of the tabletop scenes' pictures
    views: int = 24
    reconstruct: tuple[str, ...] = ("reconstruct.steps=400", "geometry.voxels=300000")
    # As the main job steps: the published step hardly moves a field in so few steps, whose single ones are shrunk.
    edit: tuple[str, ...] = ("edit.lr=0.22",)
    steps: int = 100
    shares: tuple[float, ...] = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


QUICK = Plan(
    scenes=1,
    size=64,
    views=16,
    reconstruct=("reconstruct.steps=120", "geometry.voxels=60000", "renderer.steps=128"),
    steps=6,
    shares=(0.5, 1.0),
)


@dataclass(frozen=True)
class Place:
    """A scene's folder and what to edit it from and to; None: its own captions."""

    name: str
    root: Path
    source: str | None = None
    target: str | None = None


def tabletop_places(folder: Path, plan: Plan) -> list[Place]:
    """Held-out tabletop scenes, written as LLFF folders where they are not there yet; the kinds of edit take turns."""
    places = []
    for index in range(plan.scenes):
        edit = held_out_edit(index, (KINDS[index % len(KINDS)],))
        name = f"tabletop-{index:03d}-{edit.kind}"
        root = folder / f"{name}-{plan.views}x{plan.size}"
        if not root.exists():
            cameras = forward_cameras(
                HELD_OUT + index, plan.views, plan.size, open_side(edit.before), 28.0, middle(edit.before)
            )
            with atomic_write(root) as unfinished:
                write_llff(unfinished, edit, cameras, supersampling=2)
        places.append(Place(name, root))
    return places


def listed_places(table: Path) -> list[Place]:
    """A user's own: a CSV file with the columns root, source, target; folders relative to it. Raises UserError."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--scenes {table}: cannot be read: {error}") from error
    places = []
    for number, row in enumerate(rows, start=2):
        if not row.get("root"):
            raise UserError(f"--scenes {table}, line {number}: no root; the columns are root, source, target")
        root = (table.parent / row["root"]).resolve()
        places.append(Place(root.name, root, row.get("source") or None, row.get("target") or None))
    if not places:
        raise UserError(f"--scenes {table}: lists no scene")
    return places


def study(
    prior: Prior,
    judges: Judges,
    places: Sequence[Place],
    methods: Sequence[Method],
    store: Store,
    seed: int,
    identity: Mapping[str, Any],
    overrides: Sequence[str],
    command: str,
    plan: Plan,
) -> Report:
    """Edits, table, claims, curves and a gallery. A unit of work is one scene edited by one method.

    Args:
        overrides: settings of the config, as launch.py takes them, for all scenes.
    """
    found: dict[str, list[dict[str, Any]]] = {method.shown: [] for method in methods}
    with GracefulStop() as stop:
        for place in places:
            job = _job(place, store, seed, overrides, plan)
            run = SceneEditRun(job, stop)
            for method in track(methods, place.name, unit="method"):
                settings = {
                    **identity,
                    "method": [method.name, dict(method.settings), method.steps],
                    "reconstruction": run.reconstruction_key(),
                    "edit": job.to_mapping()["edit"],
                    "prompts": list(run.prompts),
                    "shares": list(plan.shares),
                    "seed": seed,
                }
                found[method.shown] += store.get(
                    "scenes",
                    settings,
                    lambda run=run, method=method, place=place, settings=settings: [  # type: ignore[misc]
                        _edit(run, prior, judges, method, place, seed, plan, fingerprint(settings))
                    ],
                )
    report = Report("Editing scenes", command, f"{len(places)} scenes edited by {', '.join(found)}.")
    report.tables.append(summary(found, judges.lpips.name if judges.lpips else "", name="scenes"))
    axes = Axes.of(found)
    if "IDS" in found:
        report.claims += [identity_claim(found, other, axes) for other in ("DDS", "CDS") if other in found]
    report.figures.append(tradeoff(found, axes))
    report.figures.append(gallery(found, store, 8))
    return report


def _job(place: Place, store: Store, seed: int, overrides: Sequence[str], plan: Plan) -> SceneJob:
    own = [f"data.root={place.root}", f"edit.steps={plan.steps}", f"seed={seed}", "tracking=none"]
    for name, text in (("source", place.source), ("target", place.target)):
        if text is not None:
            own.append(f"prompt.{name}={text}")
    folder = [f"output={store.folder / 'scenes'}", f"name={place.name}", "tag=bench"]
    job = load([], [*folder, *overrides, *own])
    assert isinstance(job, SceneJob)
    return job


@dataclass
class Watch(pl.Callback):
    """Measures the field at shares of the edit's steps."""

    due: list[tuple[int, float]]
    look: Any
    snapshots: list[dict[str, float]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """Part of the checkpoint of an edit that is stopped, so that it goes on with what it has measured."""
        return {"due": self.due, "snapshots": self.snapshots}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.due, self.snapshots = list(state_dict["due"]), list(state_dict["snapshots"])

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        while self.due and trainer.global_step >= self.due[0][0]:
            self.snapshots.append({"share": self.due.pop(0)[1], **self.look()})


def _edit(
    run: SceneEditRun,
    prior: Prior,
    judges: Judges,
    method: Method,
    place: Place,
    seed: int,
    plan: Plan,
    key: str,
) -> dict[str, Any]:
    """One scene edited by one method: its record, with pictures of the middle held-out view.

    Args:
        key: names this unit of work, and so the checkpoint that it leaves when it is stopped.
    """
    source = run.reconstruct(Tracking(run.job, run.folder)).renderer
    edited = copy.deepcopy(source)
    cfg = run.job.edit.settings()
    module = EditScene(
        cfg, edited, SceneEdit(run.scene, source, prior, method.build(prior), run.prompts, seed)
    )
    views = HeldOutViews(run, source, judges, prior)
    watch = Watch([(round(share * cfg.steps), share) for share in plan.shares], lambda: views.figures(edited))
    unfinished = run.folder / f"{key}.ckpt"
    resume = ResumeCheckpoint(run.stop, unfinished, key, "what is finished is kept: the same command goes on")
    seconds = _train(module, cfg.steps, method.shown, run, resume, watch)
    unfinished.unlink(missing_ok=True)
    edited.to(run.device)
    record = {
        "name": place.name,
        "kind": place.name.rpartition("-")[2],
        "captions": list(run.prompts),
        "seconds": seconds,
        "snapshots": watch.snapshots,
        **views.pictures(edited),
    }
    watch.snapshots[-1].update(views.geometry(edited))
    return record


def _train(
    module: EditScene, steps: int, label: str, run: SceneEditRun, resume: ResumeCheckpoint, watch: Watch
) -> float:
    fit(
        module,
        StepDataModule(module.batch_of_step, held_out=1),
        steps,
        label=label,
        device=run.device,
        resume=resume,
        callbacks=[watch],
    )
    return resume.seconds


class HeldOutViews:
    """The held-out views of a scene, at the size at which is edited, and what an edit is held against in them."""

    def __init__(self, run: SceneEditRun, source: Renderer, judges: Judges, prior: Prior) -> None:
        scene = run.scene
        size = editing_size(scene.test.cameras.height, scene.test.cameras.width, prior)
        cameras = scene.test.cameras.resized(*size).to(run.device)
        self.cameras = [cameras[i] for i in range(len(cameras))]
        self.before = [source.render(camera) for camera in self.cameras]
        self.truths: list[Tensor | None] = [None] * len(cameras)
        self.masks: list[Tensor | None] = [None] * len(cameras)
        if scene.truth is not None:
            self.truths = [resize(image, size) for image in scene.truth.images]
            self.masks = [resize(mask[..., None].float(), size)[..., 0] > 0 for mask in scene.truth.masks]
        self.judges, self.captions = judges, run.prompts

    def figures(self, edited: Renderer) -> dict[str, float]:
        """Means over the views of what `measure` says of each."""
        each = [
            measure(
                self.judges, self.captions, truth, mask, before.rgb.cpu(), edited.render(camera).rgb.cpu()
            )
            for camera, before, truth, mask in zip(
                self.cameras, self.before, self.truths, self.masks, strict=True
            )
        ]
        names = dict.fromkeys(name for figures in each for name in figures)
        return {n: statistics.fmean(f[n] for f in each if n in f) for n in names}

    def geometry(self, edited: Renderer) -> dict[str, float]:
        """How well neighbouring edited views agree, and how far the edit moved surfaces, relative to their depth."""
        after = [edited.render(camera) for camera in self.cameras]
        agree, moved = [], []
        for i in range(len(after)):
            a, b = i, (i + 1) % len(after)
            if a != b:
                agree.append(
                    view_consistency(
                        (self.cameras[a], after[a].rgb, after[a].depth),
                        (self.cameras[b], after[b].rgb, after[b].depth),
                    )[0]
                )
            moved.append(depth_error(after[i].depth, self.before[i].depth)[1])
        figures = {"consistency": _mean(agree), "depth_change": _mean(moved)}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def pictures(self, edited: Renderer) -> dict[str, Tensor]:
        """Of the middle held-out view: source, edited, truth, and both depths on one scale."""
        i = len(self.cameras) // 2
        after, before, truth = edited.render(self.cameras[i]), self.before[i], self.truths[i]
        near, far = depth_range([before.depth, after.depth])
        shown = {
            "source": before.rgb.cpu(),
            "edited": after.rgb.cpu(),
            "source_depth": colour_depth(before.depth, near, far).cpu(),
            "edited_depth": colour_depth(after.depth, near, far).cpu(),
        }
        return shown if truth is None else {**shown, "truth": truth}


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return statistics.fmean(finite) if finite else math.nan
