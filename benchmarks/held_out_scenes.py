"""The main job on twelve held-out tabletop scenes, all of the same settings: how far its edits go, kind by kind.

    python benchmarks/held_out_scenes.py --out outputs/held-out-scenes guidance=dds

One scene after the other, each a process of its own; what is finished is not done again. Words of the form key=value
are settings of all runs. Prints a table in Markdown and what it says of each bar; exits with 1 where one is missed.
Writes a sheet of the edits, <label>.jpg: of each scene a held-out view's source, edit and true edit; a row for a kind.
PSNR in dB to the true edit over the held-out views; the depth error is the mean, inside the mask of what the edit
touches, of the distance of a field's depth from the true depth after the edit, in per cent of that depth.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from ids3d.bench.scene_sources import KINDS, tabletop_cameras, tabletop_sources
from ids3d.metrics import depth_error, edit_strength, mean_of_finite, psnr
from ids3d.systems.saved_run import load_run
from ids3d.tabletop.edits import held_out_edit, render_edit

VIEWS, SIZE = 24, 128
SHOWN = ("source", "edited", "true_edit")


@dataclass(frozen=True)
class Row:
    """One scene: PSNR inside the mask before and after, over all pixels before and after, and outside before and after;
    the share of the true change that was made; the depth error inside the mask before and after, %.
    """

    kind: str
    unedited: float
    inside: float
    whole_unedited: float
    whole: float
    outside_unedited: float
    outside: float
    share: float
    depth_unedited: float
    depth: float

    @property
    def gain(self) -> float:
        return self.inside - self.unedited


def measure(index: int, run: Path) -> Row:
    """The figures of a finished run over the held-out scene of an index."""
    edit = held_out_edit(index, (KINDS[index % len(KINDS)],))
    cameras = tabletop_cameras(index, edit, VIEWS, SIZE)
    saved = load_run(run)
    test, truth, scale = saved.scene.test, saved.scene.truth, saved.scene.to_scene.scale
    assert truth is not None
    rows = []
    for i, name in enumerate(test.names):
        image, mask = truth.images[i], truth.masks[i]
        before, after = (r.render(test.cameras[i]) for r in (saved.source, saved.edited.renderer))
        depth = scale * render_edit(edit, cameras[int(name)], supersampling=1).after.depth.float()
        rows.append(
            Row(
                edit.kind,
                psnr(before.rgb, image, mask),
                psnr(after.rgb, image, mask),
                psnr(before.rgb, image),
                psnr(after.rgb, image),
                psnr(before.rgb, image, ~mask),
                psnr(after.rgb, image, ~mask),
                edit_strength(before.rgb, after.rgb, image, mask),
                100 * depth_error(before.depth, depth, mask)[1],
                100 * depth_error(after.depth, depth, mask)[1],
            )
        )
    means = [mean_of_finite(getattr(row, f.name) for row in rows) for f in fields(Row)[1:]]
    return Row(edit.kind, *means)


def bars(rows: Sequence[Row]) -> list[tuple[str, float, float]]:
    """What is asked for: (what, what there is, the least that there should be)."""
    of = {kind: [row for row in rows if row.kind == kind] for kind in KINDS}
    asked = [("outside, mean of all", statistics.fmean(row.outside for row in rows), 28.0)]
    asked.append(("share of the true change, mean of all", statistics.fmean(row.share for row in rows), 0.7))
    if recolourings := of["recolour"]:
        gains = [row.gain for row in recolourings]
        asked.append(("recolourings, median gain inside", statistics.median(gains), 8.0))
        asked.append(("recolourings, worst gain inside", min(gains), 3.0))
    if reshapes := of["reshape"]:
        asked.append(("reshapes, median gain inside", statistics.median(row.gain for row in reshapes), 4.0))
        fallen = statistics.median(1 - row.depth / row.depth_unedited for row in reshapes)
        asked.append(("reshapes, median share by which the depth error falls", fallen, 1 / 3))
    if floors := of["floor"]:
        gained = [row.whole - row.whole_unedited for row in floors]
        asked.append(("floors, median gain over all pixels", statistics.median(gained), 5.0))
    return asked


def sheet(runs: Sequence[tuple[str, Path]], file: Path) -> None:
    """Write the middle held-out view of each run, (kind, folder), as rows of kinds."""
    rows = []
    for kind in KINDS:
        views = []
        for folder in (folder for of, folder in runs if of == kind):
            name = sorted((folder / "renders").glob("*_true_edit.png"))[1].name.removesuffix("true_edit.png")
            views += [iio.imread(folder / "renders" / f"{name}{what}.png") for what in SHOWN]
        if views:
            rows.append(np.concatenate(views, axis=1))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    iio.imwrite(file, np.concatenate(rows), quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", nargs="+", type=int, default=list(range(12)), help="by their numbers")
    parser.add_argument("--out", type=Path, default=Path("outputs/held-out-scenes"))
    parser.add_argument("--label", default="main", help="of these settings: the tag of the runs")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    out, tag = arguments.out, arguments.label
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{platform.machine()}, {threads} threads; {' '.join(arguments.settings)}\n")
    print("| scene | kind | inside | gain | outside | all pixels | share | depth error, % | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    sources = tabletop_sources(out / "scenes", 1 + max(arguments.scenes), VIEWS, SIZE)
    rows = []
    for index in arguments.scenes:
        name = sources[index].name
        run = out / name / tag
        if not (run / "metrics.json").exists():
            where = [f"data.root={sources[index].root}", f"output={out}", f"name={name}", f"tag={tag}"]
            quick = ["tracking=none", "evaluate.film_frames=0", "evaluate.clip=null"]
            command = [sys.executable, "launch.py", "--config", "configs/ids-llff.yaml", *where, *quick]
            subprocess.run([*command, *arguments.settings], check=True, stdout=subprocess.DEVNULL)
        file = run / "held-out.json"
        if not file.exists():
            file.write_text(json.dumps(asdict(measure(index, run))))
        row = Row(**json.loads(file.read_text()))
        rows.append(row)
        seconds = json.loads((run / "metrics.json").read_text())["edit/seconds"]
        cells = [
            f"{row.unedited:.1f} → {row.inside:.1f}",
            f"{row.gain:+.1f}",
            f"{row.outside_unedited:.1f} → {row.outside:.1f}",
            f"{row.whole_unedited:.1f} → {row.whole:.1f}",
            f"{row.share:.2f}",
            f"{row.depth_unedited:.1f} → {row.depth:.1f}",
            f"{seconds:.0f}",
        ]
        print(f"| {index} | {row.kind} | {' | '.join(cells)} |", flush=True)
    runs = [(sources[index].kind, out / sources[index].name / tag) for index in arguments.scenes]
    sheet(runs, out / f"{tag}.jpg")
    asked = bars(rows)
    print("\n| asked for | there is | bar | held |\n| --- | --- | --- | --- |")
    for what, there, bar in asked:
        print(f"| {what} | {there:.2f} | {bar:.2f} | {'yes' if there >= bar else 'no'} |")
    sys.exit(0 if all(there >= bar for _, there, bar in asked) else 1)


if __name__ == "__main__":
    main()
