"""Command lines: a parser that complains in one line, and what a command prints and returns when it ends early."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from ids3d.errors import Interrupted, RunFailed, UserError


def launch_command() -> str:
    """Return what to type to start a job: "ids3d" where that is what started this process, else "python launch.py"."""
    return "ids3d" if Path(sys.argv[0]).stem == "ids3d" else "python launch.py"


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, with texts laid out as they are written, and with its complaints as UserErrors of one line."""

    def __init__(
        self, prog: str, description: str | None = None, epilog: str | None = None, add_help: bool = True
    ) -> None:
        super().__init__(
            prog,
            None,
            description,
            epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=add_help,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help shows what there is)")


def positive_int(text: str) -> int:
    """For `add_argument(type=...)`: a whole number of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of 1 or more")
    return number


def run_command(main: Callable[[Sequence[str]], object], argv: Sequence[str] | None = None) -> int:
    """Call `main` with the words of the command line and return the exit code.

    It is 2 for a UserError, printed as `error: <message>`, and 1 for a RunFailed; Interrupted's own, its message
    printed; and 130 for KeyboardInterrupt, which is said too. Other exceptions pass.
    """
    try:
        main(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RunFailed) else 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("stopped at once: what was not saved by then is lost", file=sys.stderr)
        return 130
    return 0
