"""Whether fixed-point regularisation does its work: the residual ‖z_src − z_{0|t}‖ as its iterations go on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from ids3d.bench.study import Study, StudyContext, open_context
from ids3d.cli import ArgumentParser
from ids3d.models.guidance.ids import IDS, fixed_point
from ids3d.models.priors.protocol import Prior
from ids3d.progress import track
from ids3d.report.page import Claim, Figure, Report, Table, Verdict, plot_lines
from ids3d.report.stats import Estimate, mean_interval
from ids3d.seeding import generator_for
from ids3d.tabletop.captions import caption
from ids3d.tabletop.dataset import render_seed
from ids3d.tabletop.scene import HELD_OUT, sample_scene

FIRST_SEED = HELD_OUT + 200_000
"""Of the images; the evaluation of the prior and the edits use others."""


@dataclass(frozen=True)
class ResidualConfig:
    """How much is measured.

    Attributes:
        images: held-out tabletop images.
        shares: of the number of timesteps, in [0, 1]: where the residual is measured.
        iterations: of fixed-point regularisation.
        batch: images at once, at most.
    """

    images: int = 64
    shares: tuple[float, ...] = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
    iterations: int = 3
    batch: int = 16


QUICK = ResidualConfig(images=8, shares=(0.05, 0.35, 0.65, 0.95), batch=8)


def study(context: StudyContext, config: ResidualConfig) -> Report:
    """Report the residuals at each timestep before, and after each iteration, with both kinds of step."""
    report = Report(
        "Does fixed-point regularisation do its work?",
        context.command,
        f"The residual of {config.images} held-out tabletop images, ω = 7.5, divided by what it is before any "
        "iteration: the published step (λ = 1) and Polyak's (λ = 0.7).",
    )
    fixed = IDS.Config(fpr_iterations=config.iterations + 1, fpr_step="fixed", fpr_scale=1.0)
    polyak = IDS.Config(fpr_iterations=config.iterations + 1, fpr_step="polyak", fpr_scale=0.7)
    for ids in (fixed, polyak):
        by_share = {
            share: _stored_residuals(context, config, ids, share)
            for share in track(config.shares, f"residuals, {ids.fpr_step}", unit="timestep")
        }
        everywhere = [row for residuals in by_share.values() for row in residuals]
        table = _table(ids, config.iterations, by_share, everywhere)
        report.tables.append(table)
        report.figures.append(_figure(ids, table))
        if ids is fixed:
            report.claims.append(_claim(everywhere, config.iterations))
    return report


def _stored_residuals(
    context: StudyContext, config: ResidualConfig, ids: IDS.Config, share: float
) -> list[list[float]]:
    settings = {
        **context.identity,
        **asdict(config),
        "seed": context.seed,
        "shares": share,
        "step": ids.fpr_step,
        "scale": ids.fpr_scale,
    }
    rows = context.store.get(
        "residual",
        settings,
        lambda: [{"residuals": _residuals(context.prior, config, ids, share, context.seed)}],
    )
    residuals: list[list[float]] = rows[0]["residuals"]
    return residuals


def _residuals(
    prior: Prior, config: ResidualConfig, ids: IDS.Config, share: float, seed: int
) -> list[list[float]]:
    """Return for each image ‖z_src − z_{0|t}‖ before the first iteration and after each."""
    rows: list[list[float]] = []
    for start in range(0, config.images, config.batch):
        seeds = range(FIRST_SEED + start, FIRST_SEED + min(start + config.batch, config.images))
        images = torch.stack([torch.from_numpy(render_seed(s, prior.image_size)[0]) for s in seeds])
        z_src = prior.encode(images.permute(0, 3, 1, 2).float().to(prior.device) / 255)
        prompt = prior.embed([caption(sample_scene(s)) for s in seeds])
        t = torch.full((len(z_src),), round(share * (prior.schedule.num_timesteps - 1)), device=z_src.device)
        noises = [torch.randn(z_src.shape[1:], generator=generator_for(seed, "residual", s)) for s in seeds]
        _, _, residuals = fixed_point(ids, prior, z_src, prompt, t, torch.stack(noises).to(z_src))
        rows += torch.stack(list(residuals), dim=1).cpu().tolist()
    return rows


def _table(
    ids: IDS.Config,
    iterations: int,
    by_share: dict[float, list[list[float]]],
    everywhere: Sequence[Sequence[float]],
) -> Table:
    columns = ("before", *(f"after {i + 1}" for i in range(iterations)))

    def cells(residuals: Sequence[Sequence[float]]) -> tuple[Estimate, ...]:
        return tuple(mean_interval([row[i] / row[0] for row in residuals]) for i in range(len(columns)))

    rows = [(f"t = {share:.0%}", cells(residuals)) for share, residuals in by_share.items()]
    return Table(f"residual-{ids.fpr_step}", columns, (*rows, ("all", cells(everywhere))))


def _figure(ids: IDS.Config, table: Table) -> Figure:
    lines = [
        (label, range(len(cells)), [cell.mean for cell in cells if isinstance(cell, Estimate)])
        for label, cells in table.rows
    ]
    axes = ("iterations", "residual, relative")
    plot = plot_lines(f"FPR, {ids.fpr_step} step", axes, lines, emphasised="all")
    return Figure(table.name, f"step: {ids.fpr_step}", plot)


def _claim(residuals: Sequence[Sequence[float]], iterations: int) -> Claim:
    """Decide whether the residual falls at each iteration, on average over images and timesteps."""
    falls = [mean_interval([row[i] - row[i + 1] for row in residuals]) for i in range(iterations)]
    signs = {fall.sign for fall in falls}
    verdict: Verdict = "holds" if signs == {1} else "does not hold" if -1 in signs else "not decided"
    evidence = "; ".join(f"{f.mean:.2f} ({f.low:.2f} to {f.high:.2f})" for f in falls)
    return Claim(
        "The residual ‖z_src − z_{0|t}‖ falls at each of the first iterations (λ = 1)",
        verdict,
        f"fall at each, in units of the latent: {evidence}",
    )


def add_options(command: ArgumentParser) -> None:
    """Add nothing: this study has the common options only."""


def run(arguments: argparse.Namespace, command: str) -> Report:
    """Do what the arguments say. Raises UserError."""
    return study(open_context(arguments, command), QUICK if arguments.quick else ResidualConfig())


STUDY = Study("residual", "does fixed-point regularisation lower what it should?", add_options, run)
