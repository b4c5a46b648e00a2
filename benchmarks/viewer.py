"""How soon a viewer shows its first picture, and how many coarse ones a second while the camera moves, on this machine.

    python benchmarks/viewer.py outputs/ids-llff/<tag>

Without a browser: from a viewpoint to the picture that is handed to the network, of a viewer that is open. The aim: a
second, and three a second. How long a viewer that opens takes to be ready for it is told too; it happens once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ids3d.cli import ArgumentParser, run_command
from ids3d.systems.saved_run import load_run
from ids3d.systems.viewer.display import CHANNELS, Channel, Display, Fields, Viewpoint
from ids3d.systems.viewer.painter import Onlooker, Painter

WIDTH, HEIGHT = 1280, 720
MOVES = 20


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser("python benchmarks/viewer.py", __doc__)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    saved = load_run(arguments(argv).run.resolve())
    fields = Fields(saved.source, saved.edited.renderer)
    poses = saved.scene.train.cameras.c2w
    print("| channel | ready, s | first picture, s | coarse pictures a second | their rows |")
    print("| --- | --- | --- | --- | --- |")
    for channel in CHANNELS:
        ready, first, rate, rows = measure(
            fields, [Viewpoint(pose, 50, WIDTH, HEIGHT) for pose in poses], channel
        )
        print(f"| {channel} | {ready:.2f} | {first:.2f} | {rate:.1f} | {rows:.0f} |")


def measure(
    fields: Fields, viewpoints: list[Viewpoint], channel: Channel
) -> tuple[float, float, float, float]:
    """Seconds until a viewer is ready, and to its first picture, pictures a second after it, and their mean height."""
    heights: list[int] = []

    def show(picture: np.ndarray) -> None:
        heights.append(len(picture))

    painter, onlooker = Painter(next(iter(fields.source.parameter_groups().density)).device), Onlooker(show)
    start = time.monotonic()
    painter.get_ready(fields, viewpoints[0])
    times = [time.monotonic()]
    for i in range(MOVES):
        onlooker.look(viewpoints[i % len(viewpoints)], Display("edited", channel))
        painter.paint(fields, [onlooker], lambda: True)
        times.append(time.monotonic())
    return (
        times[0] - start,
        times[1] - times[0],
        (MOVES - 1) / (times[-1] - times[1]),
        sum(heights[1:]) / (MOVES - 1),
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
