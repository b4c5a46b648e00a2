"""What a run over a scene is going to do, phase by phase, and what that will take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ids3d.images import resize
from ids3d.models.renderers.protocol import Renderer
from ids3d.systems.divergence import Watch
from ids3d.systems.edit_scene.editing import EditingSystem
from ids3d.systems.estimate import (
    VIEWS,
    Costs,
    Estimate,
    basis_in_words,
    memory_in_words,
    method_costs,
    peak_gb,
    ray_costs,
    total,
)
from ids3d.systems.resuming import ResumeCheckpoint
from ids3d.systems.scene_edit_phases import SceneEditRun
from ids3d.systems.scene_phases import SceneRun
from ids3d.systems.work import CountsWork, Work

COPIES = 5
"""Of a field's numbers, while it is edited: it, its source, the gradients, and Adam's two moments."""


@dataclass(frozen=True)
class Phase:
    """A phase, in a word and in several.

    Attributes:
        work: all that it does; None: not known.
        left: the share of it that is still to be done.
    """

    name: str
    how: str
    work: Work | None
    left: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What is about to be done.

    Attributes:
        renderer: an untrained field, as the reconstruction begins with it.
        parameters: numbers that the whole field has.
        phases: those that are still to come, in order.
        edit: the system of the edit; None: there is none.
    """

    renderer: Renderer
    parameters: int
    phases: tuple[Phase, ...]
    edit: Any = None


def plan_of(run: SceneRun) -> Plan:
    """The plan of a run that is prepared."""
    renderer, job = run.build_renderer(), run.job
    groups = renderer.parameter_groups()
    parameters = sum(p.numel() for p in (*groups.density, *groups.appearance))
    module = job.reconstruct.build(renderer, run.scene, job.seed)
    steps, phases = module.steps(), list[Phase]()
    if not (run.reconstruction_folder / "metrics.json").exists():
        phases.append(_phase("reconstruct", module, steps, run.reconstructing))
    if not isinstance(run, SceneEditRun):
        return Plan(renderer, parameters, tuple(phases))
    edit = run.build_edit(renderer, renderer, Watch())
    if not run.has_edited:
        phases.append(_phase("edit", edit, edit.steps(), run.editing))
    work = run.evaluation.work() if isinstance(run.evaluation, CountsWork) else None
    phases.append(Phase("evaluate", job.evaluate.type if work is None else work.how, work))
    return Plan(renderer, parameters, tuple(phases), edit)


def _phase(name: str, module: Any, steps: int, resume: ResumeCheckpoint) -> Phase:
    work = module.work() if isinstance(module, CountsWork) else None
    done = resume.steps_done if resume.found else 0
    how = f"{steps:,} steps" if work is None else work.how
    return Phase(
        name, f"{how}; {done:,} of {steps:,} steps are done" if done else how, work, 1 - done / steps
    )


def estimate_of(run: SceneRun, plan: Plan) -> Estimate:
    """Time a few steps of the run, and say what all of it will take."""
    before, works = peak_gb(run.device), [phase.work for phase in plan.phases if phase.work is not None]
    rays_at_once = max((work.rays_at_once for work in works if work.trained_rays), default=0)
    costs, basis = Costs(), list[str]()
    if (
        isinstance(run, SceneEditRun)
        and isinstance(plan.edit, EditingSystem)
        and any(w.guided for w in works)
    ):
        photographs = run.scene.train.images[:VIEWS].to(run.device)
        images = torch.stack([resize(image, plan.edit.size).permute(2, 0, 1) for image in photographs])
        costs = method_costs(run.prior, run.job.guidance.build(run.prior), plan.edit.prompts, images)
        sampled = run.job.guidance.kind == "sampler"
        step = "a prediction of the prior" if sampled else "a step of the guidance"
        basis.append(f"{step} on {len(images)} views")
    if works:
        costs = costs.with_rays(ray_costs(plan.renderer, run.scene, rays_at_once or 2048, run.device))
        basis.append(f"one of {rays_at_once or 2048:,} rays in an empty field (the slowest)")
    seconds = [
        (phase.name, None if phase.work is None else phase.left * costs.seconds(phase.work))
        for phase in plan.phases
    ]
    uncounted = [what for phase in plan.phases if phase.work is not None for what in phase.work.uncounted]
    return Estimate(
        total(seconds, at_most=True),
        _memory(run, plan, costs, before),
        basis_in_words(basis, [*uncounted, "opening models", "writing files"]),
    )


def _memory(run: SceneRun, plan: Plan, costs: Costs, before: float) -> str:
    batch = max((phase.work.batch for phase in plan.phases if phase.work is not None), default=1)
    edited = f"for {batch} {'views' if batch > 1 else 'view'} at once"
    largest = max(
        (costs.guided_gb * batch, edited), (costs.ray_gb, "for a step's rays"), key=lambda part: part[0]
    )
    field = COPIES * 4e-9 * plan.parameters
    return memory_in_words(
        run.device,
        [
            (before, "in use now"),
            (field, f"for the field ({COPIES} times its numbers)"),
            largest,
        ],
    )
