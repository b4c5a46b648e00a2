"""Compares editing methods on the same edits, with the same seeds, and writes a report."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ids3d
from ids3d.bench import ablation, cost, edits, images, residual, reversibility, scenes
from ids3d.bench.edits import Judges, Method
from ids3d.bench.prior import build_prior, picture_job, weights_digest
from ids3d.bench.store import Store
from ids3d.cli import ArgumentParser, positive_int, run_command
from ids3d.data.images.files import ImageFiles, tabletop_task
from ids3d.errors import Interrupted, UserError
from ids3d.metrics import ClipLpips, ClipScore, Lpips, PackagedLpips
from ids3d.models.priors.protocol import Prior
from ids3d.provenance import summary
from ids3d.report.page import Report
from ids3d.systems.evaluate.held_out import TABLETOP_CLIP
from ids3d.systems.fitting import quieten_lightning
from ids3d.tasks import EditTask

EPILOG = """\
examples:
  python -m ids3d.bench images --quick
  python -m ids3d.bench images --methods ids dds cds --edits 64 --out outputs/bench
  python -m ids3d.bench scenes --methods dds ids
  python -m ids3d.bench images --folder photos --clip openai/clip-vit-base-patch32 --lpips alex \\
      prior=stable-diffusion prior.path=/models/sd15
  python -m ids3d.bench scenes --scenes scenes.csv prior=stable-diffusion prior.path=/models/sd15

photos/prompts.csv has the columns name, source, target; scenes.csv has root, source, target. What is finished is kept
in the folder, and not done again; a report is written to <out>/<study>/report.html.
"""

SAMPLERS = ("p2p", "pnp", "sdedit")  # whose steps are a setting of their own
LPIPS = ("clip", "alex", "vgg", "shift-tolerant")


def parser() -> ArgumentParser:
    """The command line."""
    made = ArgumentParser("python -m ids3d.bench", __doc__, EPILOG)
    commands = made.add_subparsers(dest="study", required=True, metavar="STUDY")
    for name, what, methods, count in (
        ("images", "pictures edited by every method", edits.METHODS, 64),
        ("scenes", "scenes edited by every method that gives a gradient", scenes.METHODS, scenes.Plan.scenes),
        ("ablation", "IDS with other N, λ and numbers of steps", None, 24),
        ("reversibility", "pictures edited there and back", reversibility.METHODS, 16),
        ("cost", "time, evaluations of the UNet and memory of every method", edits.METHODS, None),
        ("residual", "does fixed-point regularisation lower what it should?", None, None),
    ):
        command = commands.add_parser(name, help=what)
        if methods is not None:
            command.add_argument(
                "--methods",
                nargs="+",
                default=methods,
                metavar="NAME",
                help=f"(default: {' '.join(methods)})",
            )
        if count is not None:
            command.add_argument(
                "--edits",
                type=positive_int,
                default=count,
                help="held-out tabletop edits (default: %(default)s)",
            )
        if name in ("images", "ablation", "reversibility", "cost"):
            command.add_argument(
                "--folder", metavar="FOLDER", help="instead: your own pictures, with prompts.csv"
            )
        if name == "scenes":
            command.add_argument(
                "--scenes", type=Path, metavar="FILE", help="instead: your own, a CSV of root, source, target"
            )
        if name in ("images", "scenes", "reversibility"):
            command.add_argument(
                "--steps",
                type=positive_int,
                default=scenes.Plan.steps if name == "scenes" else 200,
                help="of gradient methods (default: %(default)s)",
            )
        if name in ("images", "scenes", "ablation", "reversibility"):
            command.add_argument(
                "--clip",
                default="tabletop",
                help="a CLIPModel's folder or hub name (default: the bundled one)",
            )
            command.add_argument(
                "--lpips", choices=LPIPS, default="clip", help="(default: its formula on the CLIP's features)"
            )
        command.add_argument("--out", type=Path, default=Path("outputs/bench"), metavar="FOLDER")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--quick", action="store_true", help="less of everything: two minutes")
        command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
        command.usage = f"python -m ids3d.bench {name} [options] [key=value ...]"
    return made


def main(argv: Sequence[str]) -> None:
    """Do what the command line says. Raises UserError or Interrupted."""
    # Told apart by their form, so that they may stand anywhere, as in launch.py's command line.
    overrides = [word for word in argv if re.match(r"[A-Za-z_][\w.-]*=", word)]
    given = parser().parse_args([word for word in argv if word not in overrides])
    given.overrides = overrides
    start = time.monotonic()
    store, command = Store(given.out), shlex.join(["python", "-m", "ids3d.bench", *argv])
    quieten_lightning()
    studies = {
        "images": _images,
        "scenes": _scenes,
        "ablation": _ablation,
        "reversibility": _reversibility,
        "cost": _cost,
        "residual": _residual,
    }
    try:
        report = studies[given.study](given, store, command)
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted("stopped; what is finished is kept: the same command goes on") from None
    finish(report, store.folder / given.study, time.monotonic() - start)


def _prior_overrides(given: argparse.Namespace) -> list[str]:
    """Those that choose the prior; scenes take others too."""
    return [o for o in given.overrides if given.study != "scenes" or o.split("=")[0].split(".")[0] == "prior"]


def _identity(given: argparse.Namespace, prior: Prior) -> dict[str, Any]:
    """What determines results beside method and edit: the prior, its weights, the judges, and whose pictures."""
    folder = getattr(given, "folder", None)
    settings = picture_job(_prior_overrides(given)).to_mapping()["prior"]
    settings.pop("path", None)  # its weights say which it is
    return {
        "prior": settings,
        "version": ids3d.__version__,
        "weights": weights_digest(prior),
        "judges": [getattr(given, "clip", None), getattr(given, "lpips", None)],
        "folder": str(Path(folder).resolve()) if folder else "",
    }


def _prior(given: argparse.Namespace) -> Prior:
    return build_prior(_prior_overrides(given), given.device)


def _judges(given: argparse.Namespace, prior: Prior) -> Judges:
    clip = ClipScore(TABLETOP_CLIP if given.clip == "tabletop" else given.clip).to(prior.device)
    lpips: Lpips
    if given.lpips == "clip":
        lpips = ClipLpips(clip, f"{given.clip} CLIP" if given.clip == "tabletop" else given.clip)
    else:
        lpips = PackagedLpips(given.lpips, prior.device)
    return Judges(clip, lpips)


def _tasks(given: argparse.Namespace, prior: Prior, count: int) -> list[EditTask]:
    if given.folder:
        tasks = ImageFiles(ImageFiles.Config(folder=given.folder)).tasks(prior.image_size)
        missing = [t.name for t in tasks if not (t.source or "").strip() or not (t.target or "").strip()]
        if missing:
            raise UserError(f"--folder {given.folder}: no source or target prompt for {', '.join(missing)}")
        return tasks[:count] if given.quick else tasks
    return [tabletop_task(index, prior.image_size) for index in range(count)]


def _methods(given: argparse.Namespace, prior: Prior, steps: int) -> list[Method]:
    """The methods asked for; names and settings that there are not are found now, before any work."""
    brief = {"steps": steps} if given.quick else {}
    made = [Method(name, brief if name in SAMPLERS else {}, steps) for name in given.methods]
    for method in made:
        method.build(prior)
    return made


def _images(given: argparse.Namespace, store: Store, command: str) -> Report:
    prior = _prior(given)
    count, steps = (6, 10) if given.quick else (given.edits, given.steps)
    tasks, methods = _tasks(given, prior, count), _methods(given, prior, steps)
    judges, identity = _judges(given, prior), _identity(given, prior)
    return images.study(prior, judges, tasks, methods, store, given.seed, identity, command)


def _scenes(given: argparse.Namespace, store: Store, command: str) -> Report:
    prior = _prior(given)
    wrong = sorted(set(given.methods) & set(SAMPLERS))
    if wrong:
        raise UserError(
            f"--methods {' '.join(wrong)}: edits pictures only; a scene needs a method with a gradient"
        )
    plan = scenes.QUICK if given.quick else scenes.Plan(scenes=given.edits, steps=given.steps)
    if given.scenes:
        places = scenes.listed_places(given.scenes)
    else:
        places = scenes.tabletop_places(store.folder / "scenes" / "folders", plan)
    judges, identity = _judges(given, prior), _identity(given, prior)
    methods = _methods(given, prior, plan.steps)
    shaping = [] if given.scenes and not given.quick else [*plan.reconstruct, *plan.edit]
    overrides = [*shaping, *given.overrides, f"device={given.device}"]
    return scenes.study(prior, judges, places, methods, store, given.seed, identity, overrides, command, plan)


def _ablation(given: argparse.Namespace, store: Store, command: str) -> Report:
    prior = _prior(given)
    tasks = _tasks(given, prior, 4 if given.quick else given.edits)
    plan = ablation.QUICK if given.quick else ablation.Plan()
    judges, identity = _judges(given, prior), _identity(given, prior)
    return ablation.study(prior, judges, tasks, store, given.seed, identity, command, plan)


def _reversibility(given: argparse.Namespace, store: Store, command: str) -> Report:
    prior = _prior(given)
    count, steps = (4, 10) if given.quick else (given.edits, given.steps)
    tasks, methods = _tasks(given, prior, count), _methods(given, prior, steps)
    judges, identity = _judges(given, prior), _identity(given, prior)
    return reversibility.study(prior, judges, tasks, methods, store, given.seed, identity, command)


def _cost(given: argparse.Namespace, store: Store, command: str) -> Report:
    plan = cost.QUICK if given.quick else cost.Plan()
    prior = _prior(given)
    tasks, methods = _tasks(given, prior, plan.pictures), _methods(given, prior, 10 if given.quick else 200)
    identity = _identity(given, prior)
    return cost.study(prior, tasks, methods, store, identity, command, plan)


def _residual(given: argparse.Namespace, store: Store, command: str) -> Report:
    prior = _prior(given)
    plan = residual.QUICK if given.quick else residual.Plan(seed=given.seed)
    return residual.study(prior, store, _identity(given, prior), plan, command)


def finish(report: Report, folder: Path, seconds: float) -> None:
    """Adds how it was made, writes the report, and says what came out and where it is."""
    report.facts |= {**summary(), "this run took": f"{seconds:.0f} s (what was there already is not counted)"}
    page = report.write(folder)
    for claim in report.claims:
        print(f"{claim.text}: {claim.verdict} ({claim.evidence})")
    print(page)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    sys.exit(run_command(main))
