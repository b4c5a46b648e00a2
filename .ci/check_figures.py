"""Fails, saying which, if a figure of the main job falls short: `check_figures.py path/to/metrics.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path


def shortfalls(figures: Mapping[str, float | None]) -> list[str]:
    """What falls short of the main job's bars, a line each; a figure that is missing or undefined falls short too."""
    inside, source = figures.get("edit/psnr_inside"), figures.get("source/psnr_inside")
    gain = None if inside is None or source is None else inside - source
    checks = [
        ("reconstruction/psnr", figures.get("reconstruction/psnr"), "at least", 28.0),
        ("edit/psnr_inside - source/psnr_inside", gain, "at least", 5.0),
        ("edit/psnr_outside", figures.get("edit/psnr_outside"), "at least", 27.0),
        ("edit/clip_improved", figures.get("edit/clip_improved"), "at least", 0.9),
        ("time/total_seconds", figures.get("time/total_seconds"), "at most", 600.0),
        ("memory/peak_gb", figures.get("memory/peak_gb"), "at most", 6.0),
    ]
    wrong = []
    for name, value, relation, bar in checks:
        held = value is not None and (value >= bar if relation == "at least" else value <= bar)
        line = f"{name} = {'missing' if value is None else round(value, 3)} ({relation} {bar:g})"
        print(("ok    " if held else "SHORT ") + line)
        if not held:
            wrong.append(line)
    return wrong


if __name__ == "__main__":
    file = Path(sys.argv[1])
    if not file.is_file():
        sys.exit(f"figures: {file} does not exist: the main job did not finish")
    wrong = shortfalls(json.loads(file.read_text()))
    sys.exit("figures fall short:\n  " + "\n  ".join(wrong) if wrong else 0)
