"""Options that several studies take, and what is made of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ids3d.bench.image_metrics import ImageMetrics
from ids3d.bench.methods import Method, is_sampler
from ids3d.cli import ArgumentParser, positive_int
from ids3d.data.images.files import ImageFiles, tabletop_task
from ids3d.errors import UserError
from ids3d.metrics import ClipLpips, ClipScore, Lpips, PackagedLpips
from ids3d.models.priors.protocol import Prior
from ids3d.systems.evaluate.held_out import TABLETOP_CLIP
from ids3d.tasks import EditTask

LPIPS = ("clip", "alex", "vgg", "shift-tolerant")


def add_common(command: ArgumentParser) -> None:
    """Add the options that every study takes."""
    command.add_argument("--out", type=Path, default=Path("outputs/bench"), metavar="FOLDER")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--quick", action="store_true", help="less of everything: two minutes")
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


def add_methods(command: ArgumentParser, default: Sequence[str]) -> None:
    command.add_argument(
        "--methods", nargs="+", default=default, metavar="NAME", help=f"(default: {' '.join(default)})"
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


def add_steps(command: ArgumentParser, default: int) -> None:
    command.add_argument(
        "--steps", type=positive_int, default=default, help="of gradient methods (default: %(default)s)"
    )


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


def build_methods(arguments: argparse.Namespace, prior: Prior, steps: int) -> list[Method]:
    """Return the methods asked for. Each is built once now, to find unknown names and settings before any work.

    Args:
        steps: of the loop; with --quick those of samplers too.
    """
    methods = []
    for name in arguments.methods:
        settings = {"steps": steps} if arguments.quick and is_sampler(name) else {}
        methods.append(Method(name, settings, steps))
        methods[-1].build(prior)
    return methods
