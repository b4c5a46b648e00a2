"""Compares editing methods on the same edits, with the same seeds, and writes a report."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from data.pictures import Pictures, tabletop_task
from ids3d.bench import images, residual
from ids3d.bench.report import Report
from ids3d.bench.store import Store
from ids3d.errors import UserError
from ids3d.experiment import ImageEdit, load
from ids3d.metrics import ClipLpips, ClipScore
from ids3d.provenance import describe
from models.priors.prior import Prior
from systems.evaluate import TABLETOP_CLIP
from systems.run import pick_device, quieten_lightning

EPILOG = """\
examples:
  python -m ids3d.bench images --quick
  python -m ids3d.bench images --methods ids dds cds --edits 64 --out outputs/bench
  python -m ids3d.bench images --folder photos prior=stable-diffusion prior.path=/models/sd15
  python -m ids3d.bench residual

What is finished is kept in the folder, and not done again; a report is written to <out>/<study>/report.html.
"""

SAMPLERS = ("p2p", "pnp", "sdedit")  # whose steps are a setting of their own


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints as one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help shows what there is)")


def parser() -> Parser:
    """The command line."""
    made = Parser(
        "python -m ids3d.bench",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(dest="study", required=True, metavar="STUDY")
    table = commands.add_parser("images", help="pictures edited by every method")
    table.add_argument("--methods", nargs="+", default=images.METHODS, metavar="NAME", help="(default: all)")
    table.add_argument(
        "--edits", type=_count, default=64, help="held-out tabletop edits (default: %(default)s)"
    )
    table.add_argument("--folder", metavar="FOLDER", help="instead: your own pictures, with prompts.csv")
    table.add_argument("--steps", type=_count, default=200, help="of gradient methods (default: %(default)s)")
    commands.add_parser("residual", help="does fixed-point regularisation lower what it should?")
    for command in commands.choices.values():
        command.add_argument("--out", type=Path, default=Path("outputs/bench"), metavar="FOLDER")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--quick", action="store_true", help="less of everything: two minutes")
        command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
        command.add_argument("overrides", nargs="*", metavar="prior.key=value", help="which prior")
    return made


def main(argv: Sequence[str]) -> None:
    """Runs what the command line says. Raises UserError."""
    given = parser().parse_intermixed_args(list(argv))
    start = time.monotonic()
    store, command = Store(given.out), shlex.join(["python", "-m", "ids3d.bench", *argv])
    quieten_lightning()
    job = load([], ["name=bench", "data=pictures", "edit=edit-images", *given.overrides])
    assert isinstance(job, ImageEdit)
    job.check()
    prior: Prior = job.prior.build().to(pick_device(given.device))
    identity = {"prior": job.to_mapping()["prior"]}
    if given.study == "residual":
        plan = residual.QUICK if given.quick else residual.Plan(seed=given.seed)
        report = residual.study(prior, store, plan, command)
    else:
        report = _images(given, prior, store, identity, command)
    finish(report, store.folder / given.study, time.monotonic() - start)


def _images(
    given: argparse.Namespace, prior: Prior, store: Store, identity: dict[str, object], command: str
) -> Report:
    count, steps = (6, 10) if given.quick else (given.edits, given.steps)
    if given.folder:
        tasks = Pictures(Pictures.Config(folder=given.folder)).tasks(prior.image_size)
        tasks = tasks[:count] if given.quick else tasks
    else:
        tasks = [tabletop_task(index, prior.image_size) for index in range(count)]
    clip = ClipScore(TABLETOP_CLIP)
    brief = {"steps": steps} if given.quick else {}
    methods = [images.Method(name, brief if name in SAMPLERS else {}, steps) for name in given.methods]
    for method in methods:
        method.build(prior)  # a name or a setting that there is not is found before any work
    judges = images.Judges(clip, ClipLpips(clip))
    identity = {**identity, "folder": str(Path(given.folder).resolve()) if given.folder else ""}
    return images.study(prior, judges, tasks, methods, store, given.seed, identity, command)


def finish(report: Report, folder: Path, seconds: float) -> None:
    """Adds how it was made, writes the report, and says what came out and where it is."""
    made = describe()
    packages = {name: made["packages"].get(name, "") for name in ("torch", "diffusers", "transformers")}
    report.facts |= {
        "revision": str(made["git"]),
        "python": made["python"],
        "machine": made["machine"],
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "this run took": f"{seconds:.0f} s (what was there already is not counted)",
        "started": made["started"],
    }
    page = report.write(folder)
    for claim in report.claims:
        print(f"{claim.text}: {claim.verdict} ({claim.evidence})")
    print(page)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
    except KeyboardInterrupt:
        sys.exit(print("stopped; what is finished is kept: the same command goes on", file=sys.stderr) or 130)
