"""Makes tabletop scenes, image-edit benchmarks and contact sheets, and measures the tabletop models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from ids3d.errors import UserError
from ids3d.tabletop.edits import KINDS, sample_edit
from ids3d.tabletop.scene import HELD_OUT, around_cameras, forward_cameras, middle, open_side

EPILOG = f"""\
Seeds below {HELD_OUT} are those that the tabletop models may be trained on; all others are held out.

examples:
  python -m ids3d.tabletop scene --seed 1000007 --edit recolour --out scenes/one
  python -m ids3d.tabletop scene --seed 1000007 --edit reshape --layout blender --out scenes/two
  python -m ids3d.tabletop edits --count 16 --kinds recolour reshape floor --out edits
  python -m ids3d.tabletop sheet --seeds 1000000:1000064 --out sheet.png
  python -m ids3d.tabletop evaluate --json figures.json --sheet samples.png
"""


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints as one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help shows what there is)")


def parser() -> Parser:
    """The command line."""
    made = Parser(
        "python -m ids3d.tabletop",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _scene(
        commands.add_parser("scene", help="a scene before and after an edit, as an LLFF or Blender folder")
    )
    return made


def _scene(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=run_scene)
    command.add_argument("--seed", type=int, required=True)
    command.add_argument("--edit", choices=KINDS, default="recolour", help="kind of edit (default: recolour)")
    command.add_argument(
        "--objects", type=int, choices=(1, 2, 3), help="how many before it (default: by the seed)"
    )
    command.add_argument("--layout", choices=("llff", "blender"), default="llff")
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new or empty")
    command.add_argument("--views", type=_count, help="(default: 24 for llff, 60 to train on for blender)")
    command.add_argument("--size", type=_count, default=192, help="of the pictures, pixels (default: 192)")
    command.add_argument(
        "--supersampling", type=_count, default=3, help="squared, the rays of a pixel (default: 3)"
    )
    command.add_argument(
        "--spread", type=float, default=28.0, help="llff: of the arc of cameras, ± degrees (default: 28)"
    )
    command.add_argument(
        "--room", action="store_true", help="blender: with floor and walls, not on transparency"
    )
    command.add_argument("--depth", action="store_true", help="blender: depth maps too")


def run_scene(given: argparse.Namespace) -> None:
    """Write one scene's folder."""
    from ids3d.tabletop.folders import write_blender, write_llff

    edit = sample_edit(given.seed, (given.edit,), given.objects)
    if given.layout == "llff":
        side, target = open_side(edit.before), middle(edit.before)
        count = given.views or 24
        cameras = forward_cameras(given.seed, count, given.size, side, given.spread, target)
        write_llff(given.out, edit, cameras, given.supersampling)
    else:
        count = given.views or 60
        cameras = around_cameras(given.seed, count + 20, given.size)
        splits = {"train": cameras[20:], "val": cameras[:10], "test": cameras[10:20]}
        write_blender(given.out, edit, splits, given.supersampling, room=given.room, depth=given.depth)
    print(f"{given.out}: {edit.source!r} -> {edit.target!r}")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def main(argv: list[str]) -> None:
    given = parser().parse_args(argv)
    given.run(given)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
    except KeyboardInterrupt:
        sys.exit(130)
