"""The main job, killed at random moments and resumed each time: does it come to the end that it would have come to?

    python benchmarks/kills.py --edits pictures pull-back --kills 10 --out outputs/kills

For each way of editing: one run that nothing disturbs, then runs of the same settings that are sent SIGKILL until there
have been so many kills, every third of them in the moment in which a file is being written. Prints each kill, with the
seconds of work that it cost (without those in which the program starts), and what differs at the end: fields, figures,
pictures, film, log. Exits 1 if anything does, or if a kill cost more than two minutes (`save_minutes`).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from ids3d.files import UNFINISHED

TAG = "run"
MOST = 120.0  # seconds of work that a kill may cost
KEPT = ("*.ckpt", "*.safetensors", "metrics.json")  # files that a run goes on from


def command(out: Path, edit: str) -> list[str]:
    """What to type to start a run, or to go on with it."""
    folder = out / "ids-llff" / TAG
    if (folder / "config.yaml").exists():
        return [sys.executable, "launch.py", "--resume", str(folder)]
    settings = [f"edit={edit}", f"output={out}", f"tag={TAG}", "device=cpu"]
    return [sys.executable, "launch.py", "--config", "configs/ids-llff.yaml", *settings]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as said:
        return subprocess.Popen(words, stdout=said, stderr=said, start_new_session=True)


def newest(out: Path) -> float:
    """When this run last kept what it has done (seconds since the epoch)."""
    files = [file for pattern in KEPT for file in out.rglob(pattern) if UNFINISHED not in str(file)]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def writes(out: Path) -> bool:
    """Whether a file is being written."""
    return next(out.rglob(f"{UNFINISHED}*"), None) is not None


@dataclass(frozen=True)
class Kill:
    """When a process was killed, and since when it had worked (seconds since the epoch)."""

    at: float
    working: float


def kill(process: subprocess.Popen[bytes], out: Path, wait: float, in_writing: bool) -> Kill | None:
    """Kill it after so many seconds, or in its first write after them; None: it had ended before."""
    log, begin, working = out / "said", time.time(), 0.0
    said_before = log.stat().st_size
    while process.poll() is None:
        now = time.time()
        if not working and b" so far" in log.read_bytes()[said_before:]:  # it shows progress
            working = now
        if now - begin > wait and (not in_writing or writes(out)):
            process.kill()
            process.wait()
            return Kill(now, working or now)
        time.sleep(0.002 if in_writing and now - begin > wait else 0.1)
    return None


def phase(log: Path) -> str:
    """The last line that the run has said."""
    lines = log.read_text(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip()[:60] for line in reversed(lines) if line.strip()), "")


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same in two runs, each in an output folder of its own; times and memory are not compared."""
    a, b, found = one / "ids-llff" / TAG, other / "ids-llff" / TAG, []
    fields = {
        "the edited field": [run / "checkpoints" / "last.safetensors" for run in (a, b)],
        "the reconstruction": [next(x.glob("reconstructions/*/field.safetensors")) for x in (one, other)],
    }
    for name, files in fields.items():
        left, right = (load_file(file) for file in files)
        if left.keys() != right.keys() or any(not left[key].equal(right[key]) for key in left):
            found.append(name)
    left_figures, right_figures = (json.loads((run / "metrics.json").read_text()) for run in (a, b))
    for key in left_figures.keys() | right_figures.keys():
        timed = "seconds" in key or "memory" in key
        if not timed and left_figures.get(key) != right_figures.get(key):
            found.append(key)
    rows = [list(csv.DictReader((run / "metrics.csv").open(newline=""))) for run in (a, b)]
    if rows[0] != rows[1]:
        found.append(f"metrics.csv ({len(rows[0])} and {len(rows[1])} rows)")
    pictures = [
        {x.relative_to(run) for p in ("renders/**/*.png", "*.mp4") for x in run.glob(p)} for run in (a, b)
    ]
    if pictures[0] != pictures[1]:
        found.append(f"the pictures' names: {sorted(map(str, pictures[0] ^ pictures[1]))}")
    found += [str(x) for x in pictures[0] & pictures[1] if (a / x).read_bytes() != (b / x).read_bytes()]
    return found + [
        f"left behind: {x}" for x in other.rglob("*") if UNFINISHED in x.name or "interrupted" in x.name
    ]


def run(edit: str, kills: int, out: Path, draw: random.Random) -> bool:
    """All runs of one way of editing; whether all was the same in the end."""
    whole = out / edit / "whole"
    whole.mkdir(parents=True, exist_ok=True)
    begin = time.time()
    if not (whole / "ids-llff" / TAG / "metrics.json").exists():
        code = start(command(whole, edit), whole / "said").wait()
        assert code == 0, (whole / "said").read_text()
        print(f"\n{edit}: {time.time() - begin:.0f} s without a kill", flush=True)
    print("\n| kill | run | seconds in | writing | work lost | the last that it said |", flush=True)
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    done, number, good = 0, 0, True
    while done < kills:
        number += 1
        killed = out / edit / f"killed-{number}"
        killed.mkdir(parents=True)
        (killed / "said").touch()
        code: int | None = None
        while code != 0:
            begin = time.time()
            process = start(command(killed, edit), killed / "said")
            in_writing = done % 3 == 2
            killing = kill(process, killed, draw.uniform(0, 200), in_writing) if done < kills else None
            if killing is not None:
                lost = killing.at - max(killing.working, newest(killed))
                done, good = done + 1, good and lost <= MOST
                cells = (f"{killing.at - begin:.0f}", "yes" if in_writing else "", f"{lost:.0f}")
                print(f"| {done} | {number} | {' | '.join(cells)} | {phase(killed / 'said')} |", flush=True)
                continue
            code = process.wait()
            assert code == 0, (killed / "said").read_text()
        found = differences(whole, killed)
        good = good and not found
        print(f"\nrun {number}: {'; '.join(found) if found else 'all is the same, to the bit'}\n", flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edits", nargs="+", default=["pictures", "pull-back"])
    parser.add_argument("--kills", type=int, default=10, help="for each way of editing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/kills"))
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    print(f"{os.cpu_count()} cores, {os.environ.get('OMP_NUM_THREADS', 'all')} threads a run")
    good = [run(edit, arguments.kills, arguments.out.resolve(), draw) for edit in arguments.edits]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
