"""Where an edit of a scene may act: a weight for each pixel of each training view, soft at the edges."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ids3d.data.scenes.photographs import find_photographs, inspect, read_masks
from ids3d.errors import UserError
from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.progress import QUICK, track
from ids3d.reading import given_path, plain_file
from ids3d.scene import Scene
from ids3d.seeding import generator_for

EVERYWHERE, DIFFERENCE = "everywhere", "difference"
TIMESTEPS = (0.5, 0.8)  # of the schedule: where a prediction says what is where, and not yet how it looks
NOISES, BATCH = 8, 4
THRESHOLD = 0.3  # of the difference, where nearly the greatest (LARGEST of all pixels) is 1
LARGEST = 0.98


@dataclass(frozen=True)
class Region:
    """Weights in [0, 1]: 0 where the edit may not act.

    Attributes:
        latents: (n, 1, h, w), of the training views' latents.
        images: (n, H, W), of their pixels; softer than those of the latents.
    """

    latents: Tensor
    images: Tensor

    def to(self, device: torch.device | str) -> Region:
        return Region(self.latents.to(device), self.images.to(device))


def region_of_masks(folder: str, scene: Scene, latent_size: tuple[int, int]) -> Region:
    """The region that a folder's masks show: one image a training view, of its name, white where the edit may act.

    Args:
        folder: its path, as the setting says it.
        latent_size: (h, w).

    Raises UserError: there is no such folder, a view without a mask, a mask of other proportions, nothing white at all.
    """
    cameras, chosen = scene.train.cameras, _masks_of(folder, scene)
    for file in chosen:
        inspect(file, cameras.width, cameras.height)
    white = read_masks(chosen, cameras.height, cameras.width)[:, None].float()
    if not white.any():
        raise UserError(
            f"edit.region {folder}: the masks are black everywhere: white is where the edit may act"
        )
    return Region(F.adaptive_max_pool2d(white, latent_size), _softened(white, latent_size))


def masks_digest(folder: str, scene: Scene) -> str:
    """Name the content of the masks of `region_of_masks`. Raises UserError as that does, where they are not there."""
    digest = hashlib.sha256()
    for file in _masks_of(folder, scene):
        try:
            digest.update(hashlib.sha256(plain_file(file).read_bytes()).digest())
        except OSError as error:
            raise UserError(f"edit.region: {file} cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _masks_of(folder: str, scene: Scene) -> list[Path]:
    """The mask of each training view. Raises UserError."""
    path = given_path(folder, "edit.region")
    if not path.is_dir():
        raise UserError(
            f"edit.region {folder}: no such folder; expected {EVERYWHERE}, {DIFFERENCE} or a folder of masks"
        )
    files = {file.stem: file for file in find_photographs(path)}
    return [_mask_of(Path(name).stem, files, path) for name in scene.train.names]


def _mask_of(view: str, files: dict[str, Path], folder: Path) -> Path:
    if view not in files:
        raise UserError(f"edit.region {folder}: no mask for the training view {view}: expected {view}.png")
    return files[view]


@torch.no_grad()
def region_of_difference(
    prior: Prior, z_src: Tensor, prompts: tuple[Prompt, Prompt], image_size: tuple[int, int], seed: int
) -> Region:
    """The region where source's and target's prompt lead to different predictions for the same noisy source.

    DiffEdit (Couairon et al. 2022, arXiv 2210.11427, section 3.2, step 1), with the difference's root mean square over
    channels, a lower threshold, and one latent pixel more on each side: it is to hold all that the edit needs.

    Args:
        z_src: (n, c, h, w), the latents of the unedited training views.
        prompts: (source, target), one each.
        image_size: (H, W).
    """
    shares = torch.linspace(*TIMESTEPS, NOISES, device=z_src.device)
    t = (shares * (prior.schedule.num_timesteps - 1)).round().long()
    inside = []
    for view, z in enumerate(track(z_src, "finding the region", len(z_src), delay=QUICK)):
        generator = generator_for(seed, f"region/{view}")
        noises = torch.randn(NOISES, *z.shape, generator=generator).to(z)
        difference = torch.zeros_like(z[0], dtype=torch.float32)
        for i in range(0, NOISES, BATCH):
            difference += _difference(prior, z, t[i : i + BATCH], noises[i : i + BATCH], prompts)
        inside.append(difference >= THRESHOLD * difference.flatten().quantile(LARGEST))
    weights = F.max_pool2d(torch.stack(inside)[:, None].float(), 3, stride=1, padding=1)
    return Region(weights, _resized(weights, image_size))


def _difference(prior: Prior, z: Tensor, t: Tensor, noises: Tensor, prompts: tuple[Prompt, Prompt]) -> Tensor:
    """How far the predictions for the two prompts are apart, (h, w), summed over timesteps and noises."""
    b = len(t)
    z_t = prior.schedule.add_noise(z.expand_as(noises), noises, t)
    both = Prompt.cat([prompt.expand(b) for prompt in prompts])
    eps_src, eps_trg = prior.predict_noise(torch.cat([z_t, z_t]), torch.cat([t, t]), both, 1.0).chunk(2)
    return (eps_trg - eps_src).float().square().mean(dim=1).sqrt().sum(dim=0)


def _softened(white: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """Masks (n, 1, H, W) with edges that fall off over about a latent pixel outside of them, (n, H, W)."""
    around = _resized(F.interpolate(white, latent_size, mode="area"), white.shape[2:])
    return torch.maximum(white[:, 0], around)


def _resized(weights: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(weights, tuple(size), mode="bilinear")[:, 0].clamp(0, 1)
