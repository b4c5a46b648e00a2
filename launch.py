"""Edit images, or reconstruct, edit and evaluate a scene, from one prompt to another: as a config says."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ids3d.cli import ArgumentParser, launch_command, run_command
from ids3d.errors import UserError
from ids3d.reading import given_path

if TYPE_CHECKING:
    from ids3d.experiment import Job, SceneJob
    from ids3d.systems.viewer.server import Address

EPILOG = """\
examples:
  %(prog)s --config configs/ids-llff.yaml
  %(prog)s --config configs/ids-llff.yaml guidance=dds seed=1
  %(prog)s --config configs/ids-llff.yaml configs/prior/sd15.yaml data.root=/scenes/fern \\
      prompt.source="the green leaves" prompt.target="yellow and red leaves in autumn"
  %(prog)s --config configs/ids-image.yaml data.image=photo.png prompt.source="…" prompt.target="…"
  %(prog)s --test outputs/ids-llff/<tag>
  %(prog)s --view outputs/ids-llff/<tag>
  %(prog)s --export outputs/ids-llff/<tag> mesh faces=50000
  %(prog)s --help guidance.w_cut

configs/... come with ids3d and can be named so in any folder; a file of your own with that name wins.
"""


class Help(argparse.Action):
    """Prints the help of the command line, or of a setting, and ends."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if values is None:
            parser.print_help()
        else:
            from ids3d.systems.settings_page import help_on  # seconds to import, as all modules are

            print(help_on(str(values)), end="")
        parser.exit()


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line: `files` (YAML) and `overrides` (key=value), told apart by their form, and the mode."""
    parser = ArgumentParser(launch_command(), __doc__, EPILOG, add_help=False)
    parser.add_argument(
        "-h",
        "--help",
        nargs="?",
        action=Help,
        metavar="KEY",
        help="show this; or what is known of a setting (guidance.w_cut), a module (ids) or a kind (guidance)",
    )
    parser.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="FILE", help="merged left to right"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--train", action="store_true", help="do everything (the default)")
    mode.add_argument(
        "--test", metavar="RUN", help="evaluate again what a run's folder, or a checkpoint in it, holds"
    )
    mode.add_argument(
        "--resume",
        metavar="RUN",
        help="continue a run that was stopped or killed, or one that is finished with more edit.steps=...: "
        "its folder, or a checkpoint in it",
    )
    mode.add_argument(
        "--print-config", action="store_true", help="print every setting with its value, and stop"
    )
    mode.add_argument(
        "--export",
        nargs=2,
        metavar=("RUN", "KIND"),
        help="write RUN/exports/KIND: mesh, points, video or nerfstudio; key=value are its settings",
    )
    parser.add_argument(
        "--view",
        nargs="?",
        const="",
        metavar="RUN",
        help="look at a run's folder in the browser; without RUN, at the run that --config or --resume starts",
    )
    parser.add_argument("--host", metavar="ADDRESS", help="with --view: where it listens (default 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, metavar="N", help="with --view: or the next free one (default 8080)"
    )
    parser.add_argument("--gpu", type=int, metavar="N", help="compute on this one, the same as device=cuda:N")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="with --test, --resume, --view or --export: import what the run's config names by import path",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the run of that tag, once the new one is finished (scenes only)",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="say nothing but warnings, errors and the final figures"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that override those of the files"
    )
    arguments = parser.parse_intermixed_args(argv)
    is_override = re.compile(r"[A-Za-z_][\w.-]*=").match
    arguments.files = [word for word in arguments.config if not is_override(word)]
    arguments.overrides = [word for word in arguments.config if is_override(word)] + arguments.overrides
    if arguments.gpu is not None:
        arguments.overrides.insert(0, f"device=cuda:{arguments.gpu}")
    if arguments.view and is_override(arguments.view):
        arguments.overrides.insert(0, arguments.view)
        arguments.view = ""
    if not (arguments.files or arguments.test or arguments.resume or arguments.view or arguments.export):
        parser.error("no --config FILE")
    check_viewing(parser, arguments)
    if arguments.export and (arguments.files or arguments.view is not None):
        parser.error("--export RUN KIND takes what is there: without --config and --view")
    if arguments.overwrite and (arguments.test or arguments.resume or arguments.export):
        parser.error("--overwrite starts a run: not with --test, --resume or --export")
    return arguments


def check_viewing(parser: ArgumentParser, arguments: argparse.Namespace) -> None:
    """Raise UserError where --view, --host and --port do not go with the rest of the command line."""
    starts = arguments.files or arguments.resume
    if arguments.view and (starts or arguments.test or arguments.overrides):
        parser.error("--view RUN looks at what is there: without --config, --resume, --test or key=value")
    if arguments.view == "" and (arguments.test or arguments.print_config):
        parser.error("--view looks at a run that is started: not with --test or --print-config")
    if arguments.view is None and (arguments.host is not None or arguments.port is not None):
        parser.error("--host and --port are for --view")
    if arguments.view is not None and arguments.quiet:
        parser.error("--view says where it can be looked at: not with --quiet")
    if not 1 <= (8080 if arguments.port is None else arguments.port) <= 65535:
        parser.error(f"--port {arguments.port}: expected 1 to 65535")


def run_folder(path: str) -> Path:
    """Return the run's folder that `path` is, or a checkpoint in it. Raises UserError if it is neither."""
    from ids3d.systems.run_folder import REPLACEMENT, replacement_folder

    given = given_path(path, "the run").resolve()
    folder = given.parent.parent if given.suffix in (".ckpt", ".safetensors") and given.is_file() else given
    folder = folder.with_name(folder.name.removesuffix(REPLACEMENT))
    if not any((there / "config.yaml").is_file() for there in (folder, replacement_folder(folder))):
        raise UserError(
            f"{path} is not the folder of a run (one with a config.yaml), nor a checkpoint in one"
        )
    return folder


def load_earlier(arguments: argparse.Namespace, files: Sequence[Path]) -> Job:
    """Return the job of the run that is to be evaluated or gone on with; if one is to replace it, go on with that."""
    from ids3d.experiment import load_saved
    from ids3d.systems.run_folder import replacement_folder

    folder = run_folder(arguments.test or arguments.resume)
    saved = replacement_folder(folder)
    if arguments.test or not (saved / "config.yaml").is_file():
        saved = folder
    job = load_saved(saved, files, arguments.overrides, arguments.trust_code)
    return dataclasses.replace(job, tag=folder.name)


def run_scene(job: SceneJob, arguments: argparse.Namespace) -> None:
    """Run a job over a scene, with a viewer where that is asked for, and print what came out."""
    from ids3d.systems.scene_run import run
    from ids3d.systems.summary import show_results

    resume, overwrite = bool(arguments.resume), arguments.overwrite
    if arguments.view is None:
        show_results(job, run(job, resume=resume, overwrite=overwrite))
        return
    live = viewing().Live(address(arguments))
    try:
        show_results(job, run(job, resume=resume, overwrite=overwrite, view=live.open))
        live.stay()
    finally:
        live.close()


def viewing() -> ModuleType:
    """Return the module that opens viewers. Raises UserError where what it needs is not installed."""
    if importlib.util.find_spec("viser") is None:
        raise UserError("--view needs viser, which is not installed: pip install -e '.[viewer]'")
    from ids3d.systems.viewer import following

    return following


def address(arguments: argparse.Namespace) -> Address:
    """Return where a viewer listens."""
    from ids3d.systems.viewer.server import Address

    given = {"host": arguments.host, "port": arguments.port}
    return Address(**{name: value for name, value in given.items() if value is not None})


def show_log() -> None:
    """Show on standard error what our own modules log, and the libraries' warnings."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("ids3d").setLevel(logging.INFO)


def main(argv: Sequence[str]) -> None:
    """Do what the command line says. Raises UserError or Interrupted."""
    arguments = parse_arguments(argv)
    if not arguments.quiet:
        carry_out(arguments)
        return
    from ids3d.progress import silenced

    own = logging.getLogger("ids3d")
    level = own.level
    own.setLevel(logging.WARNING)
    try:
        with silenced():
            carry_out(arguments)
    finally:
        own.setLevel(level)


def carry_out(arguments: argparse.Namespace) -> None:
    """Do what the parsed command line says. Raises UserError or Interrupted."""
    from ids3d.config import find_config
    from ids3d.experiment import ImageJob, SceneJob, TrainingJob, load
    from ids3d.quiet import quieten_libraries

    if arguments.view:
        viewing().view_run(run_folder(arguments.view), address(arguments), arguments.trust_code)
        return
    if arguments.export:
        from ids3d.systems.export_run import export

        quieten_libraries()
        folder, kind = arguments.export
        print(f"results: {export(run_folder(folder), kind, arguments.overrides, arguments.trust_code)}")
        return
    files = [find_config(file) for file in arguments.files]
    earlier = bool(arguments.test or arguments.resume)
    job = load_earlier(arguments, files) if earlier else load(files, arguments.overrides)
    if arguments.print_config:
        print(job.to_yaml(), end="")
        return
    quieten_libraries()
    job = dataclasses.replace(job, tag=job.tag or job.default_tag())
    if arguments.overwrite and not isinstance(job, SceneJob):
        raise UserError("--overwrite is for runs over a scene: what others have finished is not done again")
    if arguments.view is not None and not isinstance(job, SceneJob):
        raise UserError("--view is for runs over a scene")
    if isinstance(job, SceneJob):
        from ids3d.systems.saved_run import evaluate_again
        from ids3d.systems.summary import show_results

        if arguments.test:
            show_results(job, evaluate_again(job))
        else:
            run_scene(job, arguments)
    elif arguments.test:
        raise UserError(
            f"--test {arguments.test}: that was no run of a scene, which is what --test evaluates"
        )
    elif isinstance(job, ImageJob):
        from ids3d.systems.image_run import run as run_images

        run_images(job)
    elif isinstance(job, TrainingJob):
        from ids3d.systems.train.training import run as run_training

        run_training(job)


def command() -> int:
    """Run as the console script `ids3d` or as `python launch.py`, and return the exit code."""
    show_log()
    return run_command(main)


if __name__ == "__main__":
    sys.exit(command())
