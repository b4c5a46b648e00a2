"""Images of the training scenes, rendered once by several processes and kept in files that grow as more are wanted."""

from __future__ import annotations

import fcntl
import math
import multiprocessing
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ids3d.errors import UserError
from ids3d.progress import track
from ids3d.tabletop.render import render
from ids3d.tabletop.scene import HELD_OUT, sample_camera, sample_scene
from ids3d.tabletop.world import LIGHT, WORLDS, World

CHECKED = 64  # of pictures that were there, how many are rendered once more and compared


@dataclass(frozen=True)
class TabletopDataset:
    """Images of consecutive seeds: rgb (n, size, size, 3) uint8 and ids (n, size, size) uint8, `TabletopRender.ids`."""

    seeds: range
    rgb: np.ndarray
    ids: np.ndarray


def render_seed(seed: int, size: int, world: str = LIGHT.name) -> tuple[np.ndarray, np.ndarray]:
    """The picture (size, size, 3) of a seed's scene by the seed's camera and its ids (size, size), both uint8.

    The world is given by name, which other processes can be told.
    """
    scene = sample_scene(seed, world=WORLDS[world])
    seen = render(scene, sample_camera(seed, scene, size))
    return (seen.rgb * 255).round().to(torch.uint8).numpy(), seen.ids.to(torch.uint8).numpy()


def load_dataset(
    seeds: range, size: int, folder: Path, world: World = LIGHT, workers: int | None = None
) -> TabletopDataset:
    """The pictures of consecutive seeds, rendered at the first call and read from disk after it.

    The files hold all pictures so far from the first seed on, without a header: whoever wants more appends to them, and
    what a killed process has rendered is not lost. Raises UserError if they are not what the code renders now.
    """
    if seeds.start < HELD_OUT < seeds.stop:
        raise ValueError(f"seeds {seeds.start} to {seeds.stop} are partly held out")
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"rgb": (size, size, 3), "ids": (size, size)}
    paths = {what: folder / f"{world.name}-{size}-from-{seeds.start}.{what}" for what in shapes}
    for path in paths.values():
        path.touch()
    there = min(len(seeds), *(paths[what].stat().st_size // math.prod(shapes[what]) for what in shapes))

    def kept(count: int) -> TabletopDataset:
        arrays = (np.memmap(paths[what], np.uint8, "c", shape=(count, *shapes[what])) for what in shapes)
        return TabletopDataset(seeds[:count], *arrays)

    if there:
        _check_world(kept(there), world, paths["rgb"], paths["ids"])
    if there < len(seeds):
        _render_more(paths["rgb"], paths["ids"], seeds, size, world.name, workers)
    return kept(len(seeds))


def _check_world(data: TabletopDataset, world: World, rgb_path: Path, ids_path: Path) -> None:
    """Render some of the pictures that were there once more. Raises UserError where they are others."""
    for i in range(0, len(data.seeds), -(-len(data.seeds) // CHECKED)):
        picture, shown = render_seed(data.seeds[i], data.rgb.shape[1], world.name)
        if np.abs(data.rgb[i].astype(int) - picture).max() > 1 or (data.ids[i] != shown).mean() > 0.01:
            raise UserError(
                f"{rgb_path}: the picture of seed {data.seeds[i]} is not the one of this version of the tabletop "
                f"world: delete this file and {ids_path.name}, and all are rendered anew"
            )


def _render_more(
    rgb_path: Path, ids_path: Path, seeds: range, size: int, world: str, workers: int | None
) -> None:
    """Append to the files what of the seeds is not there yet."""
    with rgb_path.open("ab") as rgb, ids_path.open("ab") as ids:
        fcntl.flock(rgb, fcntl.LOCK_EX)  # of two trainings that start at once, one renders and one waits
        there = min(rgb.tell() // (3 * size * size), ids.tell() // (size * size))
        for file, item in ((rgb, 3 * size * size), (ids, size * size)):
            file.truncate(there * item)  # of a picture that was not written to its end, nothing
        context = multiprocessing.get_context("spawn")
        with context.Pool(workers or os.cpu_count(), torch.set_num_threads, (1,)) as pool:
            finished = pool.imap(partial(render_seed, size=size, world=world), seeds[there:], chunksize=32)
            for picture, shown in track(finished, "tabletop scenes", total=len(seeds[there:]), unit="scene"):
                rgb.write(picture.tobytes())
                ids.write(shown.tobytes())
