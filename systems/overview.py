"""What a run is about to do, on one screen: of what, how, where results go, and how long it will take."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ids3d.data.scenes.capture import root_of
from ids3d.data.scenes.protocol import SceneConfig
from ids3d.experiment import Job, SceneJob
from ids3d.models.priors.protocol import Prior
from ids3d.models.priors.stable_diffusion import StableDiffusion
from ids3d.module import Module, plain
from ids3d.registry import shared_settings
from ids3d.screen import Line, show_lines
from ids3d.systems.edit_scene.editing import EditingSystem
from ids3d.systems.estimate import Estimate
from ids3d.systems.plan import Plan, estimate_of, plan_of
from ids3d.systems.run_folder import replaced_by
from ids3d.systems.scene_edit_phases import SceneEditRun
from ids3d.systems.scene_phases import SceneRun

NAMED = 6
"""Held-out views that are named."""

EDIT_SETTINGS = ("lr", "source", "region", "appearance_only")


def show_scene_run(run: SceneRun) -> None:
    """Print what a run over a scene is about to do; for that, a few of its steps are timed, which takes seconds.

    Nothing is drawn from torch's own generators, and nothing of the run is changed.
    """
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        plan = plan_of(run)
        estimate = estimate_of(run, plan)
    job = run.job
    lines = [*_scene(run), Line("field", _field(run, plan))]
    if isinstance(run, SceneEditRun):
        size = plan.edit.size if isinstance(plan.edit, EditingSystem) else None
        shared = settings_in_words(job.edit, EDIT_SETTINGS)
        at = "" if size is None else f"; edits at {size[1]}x{size[0]}"
        lines += [
            Line("prompts", f"“{run.prompts[0]}” to “{run.prompts[1]}”"),
            Line("prior", prior_in_words(job.prior, run.prior) + at),
            *method_lines(job.guidance),
            Line("edit", f"{job.edit.type}: {_how(plan, 'edit') or 'done already'}; {shared}"),
        ]
    lines += [*place_lines(job, run.device, run.resume_hint), *estimate_lines(estimate)]
    show_lines(title_of(job), lines, sys.stderr)


def title_of(job: Job) -> str:
    """What a run is called."""
    return f"{job.name}/{replaced_by(job).tag}"


def _scene(run: SceneRun) -> list[Line]:
    scene, bounds, settings = run.scene, run.scene.bounds, run.job.data.settings()
    where = scene.name
    if isinstance(settings, SceneConfig):
        where = str(root_of(settings)) if settings.root else "the sample scene that comes with ids3d"
    cameras, held_out = scene.train.cameras, scene.test.names
    names = ", ".join(held_out[:NAMED]) + (", ..." if len(held_out) > NAMED else "")
    views = (
        f"{len(scene.train) + len(scene.test)} views of {cameras.width}x{cameras.height} pixels, {len(scene.train)} to "
        f"train on, {len(held_out)} held out ({names}){', true edit known' if scene.truth else ''}"
    )
    sides = " x ".join(f"{side:.3g}" for side in (bounds.aabb[3:] - bounds.aabb[:3]).tolist())
    space = type(bounds.space).__name__.lower()
    return [
        Line("data", f"{where}, taken as {scene.taken_as or run.job.data.type}"),
        Line("", views),
        Line("cameras", f"{scene.layout}; near {bounds.near:.3g}, far {bounds.far:.3g} along each ray"),
        Line(
            "space",
            f"{space}, {sides} large; {scene.to_scene.scale:.3g} of its units to one of the files; background "
            f"{'to be learned' if bounds.background is None else in_a_word(bounds.background)}",
        ),
    ]


def _field(run: SceneRun, plan: Plan) -> str:
    how = _how(plan, "reconstruct")
    made = f"{run.job.reconstruct.type}: {how}" if how else f"is there already: {run.reconstruction_folder}"
    return f"{run.job.geometry.type} of {plan.parameters:,} numbers; {made}"


def _how(plan: Plan, name: str) -> str:
    return next((phase.how for phase in plan.phases if phase.name == name), "")


def prior_in_words(module: Module, prior: Prior) -> str:
    """The prior: what it is, for which size, and what it computes in."""
    computes = (
        f", computes in {str(prior.dtype).removeprefix('torch.')}"
        if isinstance(prior, StableDiffusion)
        else ""
    )
    path = prior.cfg.path if isinstance(prior, StableDiffusion) and not prior.world else ""
    return f"{module.type} {path}".strip() + f", made for {prior.image_size}x{prior.image_size}{computes}"


def method_lines(module: Module) -> list[Line]:
    """The guidance, or sampler: what it shares with all, and what it has alone."""
    shared, settings = shared_settings(module.kind), plain(module.settings())
    own = settings_in_words(module, [key for key in settings if key not in shared])
    lines = [Line("guidance", f"{module.type}: {own or 'no settings of its own'}")]
    if shared:
        common = settings_in_words(module, [key for key in settings if key in shared])
        lines.append(Line("", f"shared by all methods: {common}"))
    return lines


def settings_in_words(module: Module, keys: Sequence[str]) -> str:
    """Settings of a module, those of `keys` that it has and that are not null, as the command line takes them."""
    settings: Mapping[str, Any] = plain(module.settings())
    return " ".join(f"{key}={in_a_word(settings[key])}" for key in keys if settings.get(key) is not None)


def in_a_word(value: Any) -> str:
    """A setting's value as it is written on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(in_a_word, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def place_lines(job: Job, device: torch.device, on: str) -> list[Line]:
    """Where it is computed, where results go, and how to go on (`on`)."""
    threads = torch.get_num_threads()
    where = f"{threads} thread{'s' * (threads > 1)}"
    if device.type == "cuda":
        of = torch.cuda.get_device_properties(device)
        where = f"{of.name}, {of.total_memory / 1e9:.0f} GB"
    processes = job.processes if isinstance(job, SceneJob) else 1
    shared = f"; {processes} processes share the work" if processes > 1 else ""
    tracking = f"tracking={job.tracking}, seed={job.seed}"
    return [
        Line("device", f"{device} ({where}){shared}; {tracking}"),
        Line("output", f"{replaced_by(job).folder}", whole=True),
        Line("", on, whole=True),
    ]


def estimate_lines(estimate: Estimate) -> list[Line]:
    """Time and memory, and what they rest on."""
    return [
        Line("time", estimate.time),
        Line("memory", estimate.memory),
        Line("", f"estimated {estimate.basis}"),
    ]
