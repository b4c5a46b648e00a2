"""Edits pictures, or reconstructs, edits and evaluates a scene, from one prompt to another: as a config says."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import sys
from pathlib import Path
from typing import NoReturn

from ids3d.errors import Interrupted, UserError

EPILOG = """\
examples:
  python launch.py --config configs/ids-llff.yaml
  python launch.py --config configs/ids-llff.yaml guidance=dds seed=1
  python launch.py --config configs/ids-llff.yaml configs/prior/sd15.yaml data.root=/scenes/fern \\
      prompt.source="the green leaves" prompt.target="yellow and red leaves in autumn"
  python launch.py --config configs/ids-image.yaml data.image=photo.png prompt.source="…" prompt.target="…"
  python launch.py --test outputs/ids-llff/<tag>
"""


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints as one line like every other."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (python {self.prog} --help shows what there is)")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The command line: `files` (YAML) and `overrides` (key=value), told apart by their form, and the mode."""
    parser = Parser("launch.py", None, __doc__, EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="FILE", help="merged left to right"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--train", action="store_true", help="do everything (the default)")
    mode.add_argument(
        "--test", metavar="RUN", help="evaluate again what a run's folder, or a checkpoint in it, holds"
    )
    mode.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped, from its folder")
    mode.add_argument(
        "--print-config", action="store_true", help="print every setting with its value, and stop"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that win over those of the files"
    )
    arguments = parser.parse_intermixed_args(argv)
    is_override = re.compile(r"[A-Za-z_][\w.-]*=").match
    arguments.files = [word for word in arguments.config if not is_override(word)]
    arguments.overrides = [word for word in arguments.config if is_override(word)] + arguments.overrides
    if not (arguments.files or arguments.test or arguments.resume):
        parser.error("no --config FILE")
    return arguments


def run_folder(path: str) -> Path:
    """The run's folder that `path` is, or whose checkpoints/last.ckpt it is. Raises UserError if it is neither."""
    given = Path(path).resolve()
    folder = given.parent.parent if given.name == "last.ckpt" else given
    if not given.exists() or not (folder / "config.yaml").is_file():
        raise UserError(f"{path} is not the folder of a run (one with a config.yaml), nor a run's last.ckpt")
    return folder


def show_log() -> None:
    """What our own modules have to say, on standard error; of the libraries, warnings only."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for package in ("ids3d", "models", "data", "systems"):
        logging.getLogger(package).setLevel(logging.INFO)


def main(argv: list[str]) -> None:
    """Runs what the command line says. Raises UserError or Interrupted."""
    arguments = parse_arguments(argv)
    from ids3d.experiment import ImageJob, SceneJob, TrainingJob, load

    former = run_folder(arguments.test or arguments.resume) if arguments.test or arguments.resume else None
    job = load(([former / "config.yaml"] if former else []) + arguments.files, arguments.overrides)
    if arguments.print_config:
        print(job.to_yaml(), end="")
        return
    if former:  # where it is now, whatever it was called when it was made
        job = dataclasses.replace(
            job, output=str(former.parent.parent), name=former.parent.name, tag=former.name
        )
    job = dataclasses.replace(job, tag=job.tag or job.default_tag())
    if isinstance(job, SceneJob):
        from ids3d.systems.run import run

        for name, value in run(job, test=arguments.test is not None).items():
            print(f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}")
        print(f"results: {job.folder}")
    elif arguments.test:
        raise UserError(
            f"--test {arguments.test}: that was no run of a scene, which is what --test evaluates"
        )
    elif isinstance(job, ImageJob):
        from ids3d.systems.run_images import run as run_images

        run_images(job)
    elif isinstance(job, TrainingJob):
        from ids3d.systems.train.training import run as run_training

        run_training(job)


if __name__ == "__main__":
    show_log()
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
    except Interrupted as stopped:
        sys.exit(print(stopped, file=sys.stderr) or 130)
    except KeyboardInterrupt:
        sys.exit(130)
