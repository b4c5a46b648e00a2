"""Whether recolourings are well-posed: from the bare floor, do an object's old and new colour lie in one direction?

Told that an object has another colour, a denoiser that sees it in noise has two explanations: it has changed its colour
here, or here is floor and the object is elsewhere. With s, e and f what is seen before, after and without the object,
the second is the nearer one where (s - f) · (e - f) < 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from ids3d.progress import track
from ids3d.tabletop.render import FIRST_OBJECT, render
from ids3d.tabletop.scene import HELD_OUT, sample_camera, sample_scene
from ids3d.tabletop.world import World

See = Callable[[Tensor], Tensor]
"""Of images (n, 3, h, w) in [0, 1]: the features (n, c, h', w') that are compared."""


@torch.no_grad()
def cosines(world: World, size: int, see: See = lambda images: images, scenes: int = 4) -> dict[str, Tensor]:
    """For each floor, the cosine of (s - f) and (e - f) for every two colours, (colours, colours).

    s, e and f are means over the features of which at least half shows the object; the cosine is the smallest over as
    many held-out scenes of one object as `scenes` says.

    Args:
        world: whose colours and floors.
        size: of the images, pixels.
        see: what is compared instead of red, green and blue, such as an autoencoder's latents.
        scenes: how many.
    """
    found = {}
    for floor in track(tuple(world.floors), "rendering", unit="floor"):
        smallest = torch.ones(len(world.colours), len(world.colours))
        for seed in range(HELD_OUT, HELD_OUT + scenes):
            scene = replace(sample_scene(seed, 1, world), floor=floor)
            camera, thing = sample_camera(seed, scene, size), scene.objects[0]
            painted = [replace(scene, objects=(replace(thing, colour=colour),)) for colour in world.colours]
            views = [render(each, camera) for each in (*painted, replace(scene, objects=()))]
            seen = see(torch.stack([view.rgb.permute(2, 0, 1) for view in views]))
            shown = (views[0].ids == FIRST_OBJECT).float()[None, None]
            height, width = seen.shape[-2:]
            mask = torch.nn.functional.adaptive_avg_pool2d(shown, (height, width))[0, 0] >= 0.5
            means = seen[:, :, mask].mean(-1)
            away = torch.nn.functional.normalize(means[:-1] - means[-1], dim=1)
            smallest = torch.minimum(smallest, away @ away.T)
        found[floor] = smallest
    return found


def table(world: World, found: dict[str, Tensor]) -> str:
    """The cosines of every two colours, a row each, by floor; the last row is the smallest of each floor."""
    colours = list(world.colours)
    pairs = [(f"{colours[i]}, {colours[j]}", i, j) for i, j in combinations(range(len(colours)), 2)]
    rows = {name: [float(cosine[i, j]) for cosine in found.values()] for name, i, j in pairs}
    rows["smallest"] = [float(cosine.min()) for cosine in found.values()]
    lines = [f"{'':16}" + "".join(f"{floor:>12}" for floor in found)]
    lines += [f"{name:16}" + "".join(f"{value:12.2f}" for value in values) for name, values in rows.items()]
    return "\n".join(lines)


def latents_of(prior: Path, device: str) -> See:
    """The means of the autoencoder's latents of a prior's folder."""
    from diffusers import AutoencoderKL  # seconds to import: only who asks for latents pays

    vae = AutoencoderKL.from_pretrained(prior / "vae", local_files_only=True).to(device, torch.float32).eval()
    return lambda images: vae.encode(images.to(device) * 2 - 1).latent_dist.mean.cpu()
