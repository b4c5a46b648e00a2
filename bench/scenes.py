"""Table 2: scenes reconstructed once and edited by every method, where the true edit is known, and a user's own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ids3d.bench import options
from ids3d.bench.comparison import compare
from ids3d.bench.edits import EditRecord
from ids3d.bench.image_metrics import ImageMetrics
from ids3d.bench.methods import SCENE_METHODS, Method, is_sampler
from ids3d.bench.scene_edits import edit_scene
from ids3d.bench.scene_sources import SceneSource, listed_sources, tabletop_sources
from ids3d.bench.study import Study, StudyContext, open_context
from ids3d.cli import ArgumentParser
from ids3d.errors import UserError
from ids3d.experiment import SceneJob, load
from ids3d.progress import track
from ids3d.report.page import Report
from ids3d.systems.scene_edit_phases import SceneEditRun
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import fingerprint


@dataclass(frozen=True)
class ScenesConfig:
    """How much is done.

    Attributes:
        scenes: of the tabletop world; the kinds of edit take turns.
        size: of their images, pixels.
        views: of each.
        settings: of the config, which make these scenes small.
        edit: how scenes are edited: "pictures" or "pull-back".
        steps: of the guidance, for each view (pictures) or of the field (pull-back); None: as the config says.
        fit_steps: of the field in each round (pictures).
        shares: of the steps, in (0, 1]: where an edit is measured; the last is 1.
    """

    scenes: int = 6
    size: int = 128
    views: int = 16
    settings: tuple[str, ...] = ("reconstruct.steps=400", "geometry.voxels=300000")
    edit: str = "pictures"
    steps: int | None = None
    fit_steps: int = 60
    shares: tuple[float, ...] = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


QUICK = ScenesConfig(
    scenes=1,
    size=64,
    views=16,
    settings=("reconstruct.steps=120", "geometry.voxels=60000", "renderer.steps=128"),
    steps=6,
    fit_steps=4,
    shares=(0.5, 1.0),
)


def study(
    context: StudyContext,
    metrics: ImageMetrics,
    sources: Sequence[SceneSource],
    methods: Sequence[Method],
    overrides: Sequence[str],
    config: ScenesConfig,
) -> Report:
    """Edit every scene by every method and compare. A unit of work is one scene edited by one method.

    Args:
        overrides: settings of the config, as launch.py takes them, for all scenes.
    """
    records: dict[str, list[EditRecord]] = {method.display_name: [] for method in methods}
    with GracefulStop() as stop:
        for source in sources:
            run = SceneEditRun(scene_job(context, source, overrides, config), stop)
            for method in track(methods, source.name, unit="method"):
                settings = _unit_settings(context, run, method, config)
                rows = context.store.get(
                    "scenes",
                    settings,
                    lambda run=run, source=source, method=method, settings=settings: [  # type: ignore[misc]
                        edit_scene(
                            context, metrics, run, source, method, config.shares, fingerprint(settings)
                        )
                    ],
                )
                records[method.display_name] += [EditRecord(**row) for row in rows]
    about = f"{len(sources)} scenes edited by {', '.join(records)}."
    return compare("Editing scenes", about, "scenes", context, metrics, records)


def scene_job(
    context: StudyContext, source: SceneSource, overrides: Sequence[str], config: ScenesConfig
) -> SceneJob:
    """Return the job that reconstructs a scene and edits it. Raises UserError."""
    own = [f"data.root={source.root}", f"seed={context.seed}", "tracking=none"]
    own.append(f"edit={config.edit}")
    if config.steps is not None:
        own.append(f"edit.steps={config.steps}")
    if config.edit == "pictures":
        own.append(f"edit.fit_steps={config.fit_steps}")
    for name, text in (("source", source.source), ("target", source.target)):
        if text is not None:
            own.append(f"prompt.{name}={text}")
    folder = [f"output={context.store.folder / 'scenes'}", f"name={source.name}", "tag=bench"]
    job = load(context.config.files, [*folder, *overrides, *own])
    assert isinstance(job, SceneJob)
    return job


def _unit_settings(
    context: StudyContext, run: SceneEditRun, method: Method, config: ScenesConfig
) -> dict[str, Any]:
    """Return what names the result of a method on a scene, as JSON values."""
    return {
        **context.identity,
        "method": method.identity,
        "reconstruction": run.reconstruction_key(),
        "edit": run.job.to_mapping()["edit"],
        "prompts": list(run.prompts),
        "shares": list(config.shares),
        "seed": context.seed,
    }


def add_options(command: ArgumentParser) -> None:
    options.add_methods(command, SCENE_METHODS)
    options.add_edits(command, ScenesConfig.scenes)
    command.add_argument(
        "--scenes", type=Path, metavar="FILE", help="instead: your own, a CSV of root, source, target"
    )
    command.add_argument(
        "--edit",
        choices=("pictures", "pull-back"),
        default=ScenesConfig.edit,
        help="how scenes are edited (default: %(default)s)",
    )
    options.add_steps(command)
    options.add_metrics(command)


def run(arguments: argparse.Namespace, command: str) -> Report:
    """Do what the arguments say. Raises UserError."""
    samplers = sorted(name for name in set(arguments.methods) if is_sampler(name))
    if samplers and arguments.edit != "pictures":
        raise UserError(
            f"--methods {' '.join(samplers)}: gives no gradient to pull back to the field; take --edit pictures"
        )
    config = QUICK if arguments.quick else ScenesConfig(scenes=arguments.edits, steps=arguments.steps)
    context = open_context(arguments, command, overrides=[o for o in arguments.overrides if _is_shared(o)])
    config = replace(config, edit=arguments.edit)
    if arguments.scenes:
        sources = listed_sources(arguments.scenes)
    else:
        folder = context.store.folder / "scenes" / "folders"
        sources = tabletop_sources(folder, config.scenes, config.views, config.size)
    metrics = options.load_metrics(arguments, context.prior)
    methods = options.build_methods(context, arguments)
    settings = () if arguments.scenes and not arguments.quick else config.settings
    overrides = [*settings, *arguments.overrides, f"device={arguments.device}"]
    return study(context, metrics, sources, methods, overrides, config)


def _is_shared(override: str) -> bool:
    """Return whether it says what methods share, in pictures as in scenes."""
    return override.partition("=")[0].partition(".")[0] in ("prior", "guidance")


STUDY = Study("scenes", "scenes edited by every method that gives a gradient", add_options, run)
