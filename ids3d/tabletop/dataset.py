"""Images of the training scenes, rendered once by several processes and kept in one file."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ids3d.progress import track
from ids3d.tabletop.captions import paraphrase
from ids3d.tabletop.render import render
from ids3d.tabletop.scene import HELD_OUT, PortableRandom, sample_camera, sample_scene


@dataclass(frozen=True)
class TabletopDataset:
    """Images of consecutive seeds: rgb (n, size, size, 3) uint8 and ids (n, size, size) uint8, `TabletopRender.ids`."""

    seeds: range
    rgb: np.ndarray
    ids: np.ndarray


def render_seed(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture (size, size, 3) of a seed's scene by the seed's camera and its ids (size, size), both uint8."""
    scene = sample_scene(seed)
    seen = render(scene, sample_camera(seed, scene, size))
    return (seen.rgb * 255).round().to(torch.uint8).numpy(), seen.ids.to(torch.uint8).numpy()


def captions(seeds: range, epoch: int) -> list[str]:
    """A caption for each seed's scene, in words that change from epoch to epoch."""
    return [paraphrase(sample_scene(seed), PortableRandom(seed, f"words/{epoch}")) for seed in seeds]


def load_dataset(seeds: range, size: int, folder: Path, workers: int | None = None) -> TabletopDataset:
    """The pictures of consecutive seeds, rendered at the first call and read from disk after it."""
    if seeds.start < HELD_OUT < seeds.stop:
        raise ValueError(f"seeds {seeds.start} to {seeds.stop} are partly held out")
    name = f"{seeds.start}-{seeds.stop}-{size}.npy"
    rgb, ids = folder / f"rgb-{name}", folder / f"ids-{name}"
    if not (rgb.exists() and ids.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        for path, array in zip(
            (rgb, ids), _render_all(seeds, size, workers or os.cpu_count() or 1), strict=True
        ):
            unfinished = path.with_suffix(".unfinished.npy")
            np.save(unfinished, array)
            unfinished.replace(path)
    return TabletopDataset(seeds, np.load(rgb, mmap_mode="r"), np.load(ids, mmap_mode="r"))


def _render_all(seeds: range, size: int, workers: int) -> tuple[np.ndarray, np.ndarray]:
    rgb = np.empty((len(seeds), size, size, 3), dtype=np.uint8)
    ids = np.empty((len(seeds), size, size), dtype=np.uint8)
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        finished = pool.imap(partial(render_seed, size=size), seeds, chunksize=32)
        for index, done in enumerate(track(finished, "tabletop scenes", total=len(seeds), unit="scene")):
            rgb[index], ids[index] = done
    return rgb, ids
