"""Makes a scene of your own photographs or video: picks frames, finds the cameras, undoes distortion."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ids3d.capture.run import CAMERA_MODELS, MATCHERS, MOST_FRAMES, Settings, capture
from ids3d.cli import ArgumentParser, positive_int, run_command
from ids3d.errors import Interrupted
from ids3d.reading import given_path

EPILOG = """\
SCENE gets images/, transforms.json (nerfstudio's), sparse/0 (COLMAP's), report.json, and work/, what each stage kept:
the same command goes on where a stopped one was, and work/ may be deleted once you are content.

examples:
  python -m ids3d.capture walk.mov --out scenes/walk
  python -m ids3d.capture photographs/ --out scenes/garden --max-size 1024
"""


def parser() -> ArgumentParser:
    """The command line."""
    made = ArgumentParser("python -m ids3d.capture", __doc__, EPILOG)
    usual = Settings()
    made.add_argument("source", metavar="VIDEO|FOLDER", help="a video, or a folder of photographs (HEIC too)")
    made.add_argument("--out", required=True, metavar="SCENE", help="a folder: new, empty, or to go on with")
    made.add_argument(
        "--max-frames",
        type=positive_int,
        metavar="N",
        help=f"pictures to use at most (default: {MOST_FRAMES} of a video, all photographs)",
    )
    made.add_argument(
        "--max-size",
        type=_size,
        default=usual.max_size,
        metavar="PIXELS",
        help="longest side of the pictures; smaller ones stay as they are (default: %(default)s)",
    )
    made.add_argument(
        "--matcher",
        choices=MATCHERS,
        help="all pictures with all, or each with its neighbours (default: sequential for a video)",
    )
    made.add_argument(
        "--camera-model",
        type=str.upper,
        choices=CAMERA_MODELS,
        default=usual.camera_model,
        help="what of the lens is estimated; distortion is undone in the result (default: %(default)s)",
    )
    made.add_argument("--seed", type=int, default=usual.seed, help="(default: %(default)s)")
    made.add_argument(
        "--threads",
        type=positive_int,
        default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        help="the result is the same for any number (default: %(default)s, all of this machine)",
    )
    return made


def main(argv: Sequence[str]) -> None:
    """Carry out a command line. Raises UserError."""
    given = parser().parse_args(argv)
    source, out = given_path(given.source, "VIDEO|FOLDER"), given_path(given.out, "--out")
    settings = Settings(
        max_frames=given.max_frames,
        max_size=given.max_size,
        matcher=given.matcher,
        camera_model=given.camera_model,
        seed=given.seed,
        threads=given.threads,
    )
    try:
        report = capture(source, out, settings)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; the same command goes on from what {out / 'work'} holds") from None
    print(
        "\n".join([*report.lines(), f"scene: {out}, for data.root={out}; details in {out / 'report.json'}"])
    )


def _size(text: str) -> int:
    size = positive_int(text)
    if not 64 <= size <= 16384:
        raise argparse.ArgumentTypeError(f"{text}: expected 64 to 16384 pixels")
    return size


if __name__ == "__main__":
    sys.exit(run_command(main))
