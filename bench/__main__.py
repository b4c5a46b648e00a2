"""Compare editing methods on the same edits, with the same seeds, and write a report."""

from __future__ import annotations

import logging
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ids3d.bench import ablation, cost, images, options, residual, reversibility, scenes
from ids3d.cli import ArgumentParser, run_command
from ids3d.errors import Interrupted
from ids3d.provenance import summary
from ids3d.quiet import quieten_libraries
from ids3d.report.page import Report
from ids3d.systems.fitting import quieten_lightning

STUDIES = (images.STUDY, scenes.STUDY, ablation.STUDY, reversibility.STUDY, cost.STUDY, residual.STUDY)
PROGRAM = "python -m ids3d.bench"
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


def make_parser() -> ArgumentParser:
    """Return the parser of the command line without its key=value words."""
    parser = ArgumentParser(PROGRAM, __doc__, EPILOG)
    commands = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    for study in STUDIES:
        command = commands.add_parser(study.name, help=study.help)
        command.usage = f"{PROGRAM} {study.name} [options] [key=value ...]"
        # The names of stored results hold these three; some studies have no such option.
        command.set_defaults(run=study.run, folder=None, clip=None, lpips=None)
        study.add_options(command)
        options.add_common(command)
    return parser


def main(argv: Sequence[str]) -> None:
    """Do what the command line says. Raises UserError or Interrupted."""
    start = time.monotonic()
    # Told apart by their form, so that they may stand anywhere, as in launch.py's command line.
    overrides = [word for word in argv if re.match(r"[A-Za-z_][\w.-]*=", word)]
    arguments = make_parser().parse_args([word for word in argv if word not in overrides])
    arguments.overrides = overrides
    quieten_lightning()
    quieten_libraries()
    try:
        report = arguments.run(arguments, shlex.join([*PROGRAM.split(), *argv]))
    except (Interrupted, KeyboardInterrupt) as stopped:
        raise Interrupted("stopped; what is finished is kept: the same command goes on") from stopped
    finish(report, arguments.out / arguments.study, time.monotonic() - start)


def finish(report: Report, folder: Path, seconds: float) -> None:
    """Add how the report was made, write it, and print its claims and its path."""
    report.facts |= {**summary(), "this run took": f"{seconds:.0f} s (what was there already is not counted)"}
    page = report.write(folder)
    for claim in report.claims:
        print(f"{claim.text}: {claim.verdict} ({claim.evidence})")
    print(page)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    sys.exit(run_command(main))
