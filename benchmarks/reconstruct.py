"""Reconstructions of captures, and beside each a naive field that is given the same processor time.

    python benchmarks/reconstruct.py llff/fern@128 llff/fern@256+reconstruct.steps=900 --captures FOLDER

A capture is a folder below --captures, the longest side of its pictures, and settings of its own, each after a +; words
of the form key=value are settings of all. Prints two tables in Markdown: what comes out over the held-out views, and
where the time goes. Pictures of the first held-out view are left in --out: photograph, rendering, depth, opacity.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import naive_ndc
import pytorch_lightning as pl
import torch

from ids3d.cameras import Views
from ids3d.data.step_batches import StepDataModule
from ids3d.experiment import SceneJob, load
from ids3d.images import colour_depth, depth_range
from ids3d.metrics import psnr, ssim
from ids3d.models.renderers.protocol import Render, Renderer
from ids3d.scene import Scene
from ids3d.systems.fitting import fit, quieten_lightning
from ids3d.systems.resuming import ResumeCheckpoint
from ids3d.systems.scene_phases import SceneRun
from ids3d.systems.stopping import GracefulStop

# Functions whose share of the time is told, by the end of their file's name and their own.
PARTS = {
    "marching": ("rendering/march.py", "march_seen"),
    "field": ("geometry/grid.py", "forward"),
    "occupancy": ("rendering/occupancy.py", "update"),
    "backward": ("_tensor.py", "backward"),
    "Adam": ("adam.py", "adam"),
}
WARM_UP = 0.25  # of the steps, before which no ray is counted


class Pace(pl.Callback):
    """Seconds and samples a ray of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.samples: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)
        if "reconstruct/samples_per_ray" in trainer.callback_metrics:  # as it was when it was last logged
            self.samples.append(float(trainer.callback_metrics["reconstruct/samples_per_ray"]))


@dataclass(frozen=True)
class Result:
    """A reconstruction: its renderer, processor seconds, profile and pace."""

    job: SceneJob
    scene: Scene
    renderer: Renderer
    cpu_seconds: float
    profile: pstats.Stats
    pace: Pace
    rays_per_step: int

    def rays_per_second(self) -> float:
        later = self.pace.seconds[int(WARM_UP * len(self.pace.seconds)) :]
        return self.rays_per_step / statistics.median(later)

    def share(self, part: str) -> float:
        """Of the training's time that a part takes, with all that it calls."""
        file, name = PARTS[part]
        stats = self.profile.stats  # type: ignore[attr-defined]
        found = [v[3] for k, v in stats.items() if k[0].endswith(file) and k[2] == name]
        return max(found, default=0.0) / sum(self.pace.seconds)


def reconstruct(job: SceneJob) -> Result:
    """Reconstruct a scene as the main job does, but for keeping it."""
    with GracefulStop() as stop:
        run = SceneRun(job, stop)
        scene = run.scene
        module = job.reconstruct.build(run.build_renderer(), scene, job.seed)
        pace, profile, start = Pace(), cProfile.Profile(), time.process_time()
        nowhere = ResumeCheckpoint(stop, job.folder / "interrupted.ckpt", "key", "")
        profile.enable()
        fit(
            *(module, StepDataModule(module.batch_of_step, held_out=len(scene.test)), module.cfg.steps),
            label=job.tag,
            device=torch.device("cpu"),
            resume=nowhere,
            callbacks=[pace],
        )
        profile.disable()
    cpu_seconds = time.process_time() - start
    rays_per_step = module.cfg.rays_per_step
    return Result(job, scene, module.renderer, cpu_seconds, pstats.Stats(profile), pace, rays_per_step)


def figures(renderer: Renderer, views: Views, count: int) -> tuple[float, float]:
    """Mean PSNR and SSIM over the first views."""
    images = [renderer.render(views.cameras[i]).rgb for i in range(count)]
    pairs = [(image, views.images[i]) for i, image in enumerate(images)]
    return (
        statistics.mean(psnr(a, b) for a, b in pairs),
        statistics.mean(float(ssim(a, b)) for a, b in pairs),
    )


def picture(photograph: torch.Tensor, render: Render) -> torch.Tensor:
    """Photograph, rendering, depth and opacity, side by side."""
    depth = colour_depth(render.surface_depth, *depth_range([render.surface_depth]))
    opacity = render.opacity[..., None].expand_as(render.rgb)
    return torch.cat([photograph, render.rgb, depth, opacity], dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captures", nargs="+", metavar="FOLDER@SIZE[+key=value…]")
    parser.add_argument("--captures", dest="root", type=Path, default=Path(), help="where the folders are")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-naive", action="store_true", help="leave the naive field out")
    parser.add_argument("--out", type=Path, default=Path("outputs/reconstruct"))
    arguments = parser.parse_args()
    common = [word for word in arguments.captures if re.match(r"[A-Za-z_][\w.]*=", word)]
    torch.set_num_threads(arguments.threads)
    quieten_lightning()
    arguments.out.mkdir(parents=True, exist_ok=True)

    print(f"{os.cpu_count()} cores, {arguments.threads} threads; {' '.join(common)}\n")
    print("| capture | PSNR | SSIM | PSNR of training views | CPU-s | naive, as long |")
    print("| --- | --- | --- | --- | --- | --- |")
    costs = []
    for word in arguments.captures:
        if word in common:
            continue
        name, *own = word.split("+")
        folder, _, size = name.partition("@")
        tag = re.sub(r"\W+", "-", word)
        fixed = [f"data.root={arguments.root / folder}", f"data.max_size={size or 512}", f"tag={tag}"]
        words = [*fixed, "tracking=none", "reconstruct.validate_every=0", *common, *own]
        result = reconstruct(load(["configs/ids-llff.yaml"], [*words, f"output={arguments.out}"]))
        scene, renderer = result.scene, result.renderer
        psnr_, ssim_ = figures(renderer, scene.test, len(scene.test))
        seen, _ = figures(renderer, scene.train, len(scene.test))
        naive = "-"
        if not arguments.no_naive and scene.layout == "forward-facing":
            naive = f"{naive_ndc.reconstruct(scene, result.cpu_seconds)['psnr']:.2f}"
        print(
            f"| {word} | {psnr_:.2f} | {ssim_:.3f} | {seen:.2f} | {result.cpu_seconds:.0f} | {naive} |",
            flush=True,
        )
        render = renderer.render(scene.test.cameras[0])
        shown = picture(scene.test.images[0], render).clamp(0, 1) * 255
        iio.imwrite(arguments.out / f"{tag}.png", shown.round().byte().numpy())
        costs.append((word, result))

    print("\n| capture | rays / s | samples a ray | cells occupied | " + " | ".join(PARTS) + " |")
    print("| --- " * (4 + len(PARTS)) + "|")
    for word, result in costs:
        occupied = float(result.renderer.occupancy.binaries.float().mean())  # type: ignore[attr-defined]
        shares = " | ".join(f"{result.share(part):.0%}" for part in PARTS)
        print(
            f"| {word} | {result.rays_per_second():,.0f} | {result.pace.samples[-1]:.0f} | {occupied:.0%} | {shares} |"
        )


if __name__ == "__main__":
    main()
