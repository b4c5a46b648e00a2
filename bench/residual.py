"""Whether fixed-point regularisation does its work: the residual ‖z_src − z_{0|t}‖ as its iterations go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ids3d.bench.store import Store
from ids3d.models.guidance.ids import IDS, fixed_point
from ids3d.models.priors.protocol import Prior
from ids3d.progress import track
from ids3d.report.page import Claim, Figure, Report, Table, plot_lines
from ids3d.report.stats import Estimate, mean_interval
from ids3d.seeding import generator_for
from ids3d.tabletop.captions import caption
from ids3d.tabletop.dataset import render_seed
from ids3d.tabletop.scene import HELD_OUT, sample_scene

PICTURES = HELD_OUT + 200_000
"""The first seed of the pictures; the evaluation of the prior and the edits use others."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    pictures: int = 64
    shares: tuple[float, ...] = (
        0.05,
        0.15,
        0.25,
        0.35,
        0.45,
        0.55,
        0.65,
        0.75,
        0.85,
        0.95,
    )  # of the timesteps
    iterations: int = 3
    batch: int = 16
    seed: int = 0


QUICK = Plan(pictures=8, shares=(0.05, 0.35, 0.65, 0.95), batch=8)


def study(prior: Prior, store: Store, identity: Mapping[str, Any], plan: Plan, command: str) -> Report:
    """Residuals of the held-out tabletop pictures at each timestep before, and after each iteration."""
    report = Report(
        "Does fixed-point regularisation do its work?",
        command,
        f"The residual of {plan.pictures} held-out tabletop pictures, ω = 7.5, divided by what it is before any "
        "iteration: the published step (λ = 1) and Polyak's (λ = 0.7).",
    )
    columns = ("before", *(f"after {i + 1}" for i in range(plan.iterations)))
    for step, scale in (("fixed", 1.0), ("polyak", 0.7)):
        cfg = IDS.Config(fpr_iterations=plan.iterations + 1, fpr_step=step, fpr_scale=scale)  # type: ignore[arg-type]
        rows: list[tuple[str, tuple[Estimate, ...]]] = []
        everywhere: list[list[float]] = []
        for share in track(plan.shares, f"residuals, {step}", unit="timestep"):
            residuals = store.get(
                "residual",
                {**identity, **asdict(plan), "shares": share, "step": step, "scale": scale},
                lambda share=share, cfg=cfg: [{"residuals": _residuals(prior, plan, cfg, share)}],  # type: ignore[misc]
            )[0]["residuals"]
            everywhere += residuals
            rows.append((f"t = {share:.0%}", tuple(_column(residuals, i) for i in range(len(columns)))))
        rows.append(("all", tuple(_column(everywhere, i) for i in range(len(columns)))))
        report.tables.append(Table(f"residual-{step}", columns, tuple(rows)))
        lines = [(label, range(len(columns)), [e.mean for e in cells]) for label, cells in rows]
        axes = ("iterations", "residual, relative")
        report.figures.append(
            Figure(
                f"residual-{step}",
                f"step: {step}",
                plot_lines(f"FPR, {step} step", axes, lines, emphasised="all"),
            )
        )
        if step == "fixed":
            report.claims.append(_claim(everywhere, plan.iterations))
    return report


def _residuals(prior: Prior, plan: Plan, cfg: IDS.Config, share: float) -> list[list[float]]:
    """For each picture, ‖z_src − z_{0|t}‖ before the first iteration and after each."""
    found: list[list[float]] = []
    for start in range(0, plan.pictures, plan.batch):
        seeds = range(PICTURES + start, PICTURES + min(start + plan.batch, plan.pictures))
        images = torch.stack([torch.from_numpy(render_seed(s, prior.image_size)[0]) for s in seeds])
        z_src = prior.encode(images.permute(0, 3, 1, 2).float().to(prior.device) / 255)
        prompt = prior.embed([caption(sample_scene(seed)) for seed in seeds])
        t = torch.full((len(z_src),), round(share * (prior.schedule.num_timesteps - 1)), device=z_src.device)
        noises = [
            torch.randn(z_src.shape[1:], generator=generator_for(plan.seed, "residual", s)) for s in seeds
        ]
        _, _, residuals = fixed_point(cfg, prior, z_src, prompt, t, torch.stack(noises).to(z_src))
        found += _per_picture(residuals)
    return found


def _per_picture(residuals: Sequence[Tensor]) -> list[list[float]]:
    rows: list[list[float]] = torch.stack(list(residuals), dim=1).cpu().tolist()
    return rows


def _column(residuals: Sequence[Sequence[float]], i: int) -> Estimate:
    return mean_interval([row[i] / row[0] for row in residuals])


def _claim(residuals: Sequence[Sequence[float]], iterations: int) -> Claim:
    """Does the residual fall at each iteration, on average over pictures and timesteps?"""
    falls = [mean_interval([row[i] - row[i + 1] for row in residuals]) for i in range(iterations)]
    signs = {fall.sign for fall in falls}
    verdict = "holds" if signs == {1} else "does not hold" if -1 in signs else "not decided"
    evidence = "; ".join(f"{f.mean:.2f} ({f.low:.2f} to {f.high:.2f})" for f in falls)
    return Claim(
        "The residual ‖z_src − z_{0|t}‖ falls at each of the first iterations (λ = 1)",
        verdict,  # type: ignore[arg-type]
        f"fall at each, in units of the latent: {evidence}",
    )
