"""The main job at several seeds, numbers of threads and instruction sets: what it reaches at worst.

    python benchmarks/main_job.py --seeds 0 1 2 3 4 5 --threads 1 2 --cpu native avx2 --out outputs/main-job

One run after the other, each a process of its own with a reconstruction of its own; what is finished is not done again.
Words of the form key=value are settings of all runs. Prints a table in Markdown, PSNR in dB over the held-out views.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

CPU = {"native": {}, "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}}
INSIDE, OUTSIDE = 5.0, 27.0  # bars: of the gain inside the edit's mask, and of what is kept outside


def figures(out: Path, seed: int, threads: int, cpu: str, settings: list[str]) -> dict[str, Any]:
    """What metrics.json says of one run, which is made first if it is not there. Raises CalledProcessError."""
    name = f"{cpu}-{threads}"
    file = out / name / "ids-llff" / f"seed-{seed}" / "metrics.json"
    if not file.exists():
        where = [
            f"output={out / name}",
            f"tag=seed-{seed}",
            f"seed={seed}",
            "tracking=none",
            "evaluate.film_frames=0",
        ]
        command = [sys.executable, "launch.py", "--config", "configs/ids-llff.yaml", *where, *settings]
        environment = {**os.environ, **CPU[cpu], "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(6)))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--cpu", nargs="+", choices=CPU, default=list(CPU))
    parser.add_argument("--out", type=Path, default=Path("outputs/main-job"))
    parser.add_argument("settings", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    if wrong := [word for word in arguments.settings if not re.match(r"[A-Za-z_][\w.]*=", word)]:
        parser.error(f"not key=value: {' '.join(wrong)}")

    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {' '.join(arguments.settings)}\n"
    )
    print("| CPU | threads | seed | unedited | inside | gain | outside | reconstruction | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    gains, kept = [], []
    for cpu, threads, seed in itertools.product(arguments.cpu, arguments.threads, arguments.seeds):
        found = figures(arguments.out, seed, threads, cpu, arguments.settings)
        before, inside, outside = (
            float(found[key]) for key in ("source/psnr_inside", "edit/psnr_inside", "edit/psnr_outside")
        )
        gains.append(inside - before)
        kept.append(outside)
        cells = [f"{x:.2f}" for x in (before, inside, gains[-1], outside, found["reconstruction/psnr"])]
        print(
            f"| {cpu} | {threads} | {seed} | {' | '.join(cells)} | {found['time/total_seconds']:.0f} |",
            flush=True,
        )
    held = min(gains) >= INSIDE and min(kept) >= OUTSIDE
    print(
        f"\nworst of {len(gains)}: gain {min(gains):.2f} (bar {INSIDE:g}), outside {min(kept):.2f} (bar {OUTSIDE:g})"
    )
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
