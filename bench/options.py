"""Options that several studies take, and what is made of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

from ids3d.bench.image_metrics import ImageMetrics
from ids3d.bench.methods import Method, is_sampler
from ids3d.bench.study import StudyContext
from ids3d.cli import ArgumentParser, positive_int
from ids3d.data.images.files import ImageFiles, tabletop_task
from ids3d.errors import UserError
from ids3d.metrics import ClipLpips, ClipScore, Lpips, PackagedLpips
from ids3d.models.guidance.protocol import GuidanceConfig
from ids3d.models.priors.protocol import Prior
from ids3d.systems.evaluate.held_out import TABLETOP_CLIP
from ids3d.tasks import EditTask

LPIPS = ("clip", "alex", "vgg", "shift-tolerant")


def add_common(command: ArgumentParser) -> None:
    """Add the options that every study takes."""
    command.add_argument(
        "--config",
        nargs="+",
        default=["configs/prior/tabletop.yaml"],
        metavar="FILE",
        help="what all methods share: prior, guidance settings, steps and their length (default: %(default)s)",
    )
    command.add_argument("--out", type=Path, default=Path("outputs/bench"), metavar="FOLDER")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--quick", action="store_true", help="less of everything: two minutes")
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


def add_methods(command: ArgumentParser, default: Sequence[str]) -> None:
    command.add_argument(
        "--methods", nargs="+", default=default, metavar="NAME", help=f"(default: {' '.join(default)})"
    )
    command.add_argument(
        "--attention",
        nargs="+",
        choices=get_args(get_type_hints(GuidanceConfig)["attention"]),
        metavar="KIND",
        help="a row for each of these, of every method that takes the source's attention (default: the config's)",
    )


def add_edits(command: ArgumentParser, default: int) -> None:
    command.add_argument(
        "--edits",
        type=positive_int,
        default=default,
        help="held-out tabletop edits (default: %(default)s)",
    )


def add_folder(command: ArgumentParser) -> None:
    command.add_argument("--folder", metavar="FOLDER", help="instead: your own images, with prompts.csv")


def add_steps(command: ArgumentParser) -> None:
    command.add_argument("--steps", type=positive_int, help="of gradient methods (default: the config's)")


def add_metrics(command: ArgumentParser) -> None:
    command.add_argument(
        "--clip", default="tabletop", help="a CLIPModel's folder or hub name (default: the bundled one)"
    )
    command.add_argument(
        "--lpips", choices=LPIPS, default="clip", help="(default: its formula on the CLIP's features)"
    )


def load_metrics(arguments: argparse.Namespace, prior: Prior) -> ImageMetrics:
    """Load the CLIP and the LPIPS asked for, onto the prior's device. Raises UserError."""
    bundled = arguments.clip == "tabletop"
    clip = ClipScore(TABLETOP_CLIP if bundled else arguments.clip).to(prior.device)
    lpips: Lpips
    if arguments.lpips == "clip":
        lpips = ClipLpips(clip, "tabletop CLIP" if bundled else arguments.clip)
    else:
        lpips = PackagedLpips(arguments.lpips, prior.device)
    return ImageMetrics(clip, lpips)


def edit_tasks(arguments: argparse.Namespace, prior: Prior, count: int) -> list[EditTask]:
    """Return the user's images, `count` of them at most with --quick, or `count` tabletop edits. Raises UserError."""
    if not arguments.folder:
        return [tabletop_task(index, prior.image_size) for index in range(count)]
    tasks = ImageFiles(ImageFiles.Config(folder=arguments.folder)).tasks(prior.image_size)
    missing = [t.name for t in tasks if not (t.source or "").strip() or not (t.target or "").strip()]
    if missing:
        raise UserError(f"--folder {arguments.folder}: no source or target prompt for {', '.join(missing)}")
    return tasks[:count] if arguments.quick else tasks


def build_methods(context: StudyContext, arguments: argparse.Namespace) -> list[Method]:
    """Return the methods asked for. Each is built once now, to find unknown names and settings before any work."""
    methods = []
    for name in arguments.methods:
        if is_sampler(name):
            quick = (
                [f"guidance.steps={context.config.job().edit.settings().steps}"] if arguments.quick else []
            )
            methods.append(context.config.method(name, *quick))
        else:
            for kind in arguments.attention or [None]:
                methods.append(context.config.method(name, *([f"guidance.attention={kind}"] if kind else [])))
                if kind and kind != "none":
                    methods[-1] = replace(methods[-1], label=f"{methods[-1].display_name} + {kind}")
    for method in methods:
        method.build(context.prior)
    return methods
