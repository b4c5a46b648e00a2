"""LPIPS, the perceptual distance of two images (Zhang et al. 2018, arXiv 1801.03924), on three sets of features.

Each is called as `lpips(a, b, mask)` and has a `name`, which belongs in every table: values of one cannot be compared
with those of another.
"""

from __future__ import annotations

import importlib
from typing import Literal, Protocol
from urllib.error import URLError

import torch
from torch import Tensor
from torch.nn import functional as F

from ids3d.errors import UserError
from ids3d.metrics.clip_score import ClipScore


class Lpips(Protocol):
    """LPIPS on one set of features, with the name that tables show."""

    @property
    def name(self) -> str: ...

    def __call__(self, a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the distances (n,) of images a and b (n, 3, h, w) in [0, 1]: 0 for equal ones.

        mask (n, h, w) bool: the mean over the pixels where it is True, nan where there are none. None: over all.
        Raises ValueError where the shapes disagree.
        """


class ClipLpips:
    """LPIPS's formula on the image features of a CLIP, its layers weighted alike: needs no download.

    The features are the patches' after each layer of the image tower. LPIPS's own weights, fitted to people's
    judgements, are for other features and are not used.
    """

    def __init__(self, clip: ClipScore, label: str = "tabletop CLIP") -> None:
        self.clip, self.name = clip, f"LPIPS ({label})"

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Lpips`. Images that are not square are brought to the CLIP's square size."""
        check_shapes(a, b, mask)
        side = self.clip.model.config.vision_config.image_size
        first, second = (self._features(_resized(x, (side, side))) for x in (a, b))
        maps = [distance_map(x, y) for x, y in zip(first, second, strict=True)]
        whole = torch.stack([F.interpolate(m[:, None], a.shape[-2:], mode="bilinear")[:, 0] for m in maps])
        return masked_mean(whole.mean(0), mask)

    def _features(self, images: Tensor) -> list[Tensor]:
        """Return the patches' features after each layer, (n, c, rows, columns) each."""
        clip = self.clip
        pixels = (images.to(clip.mean) - clip.mean) / clip.std
        hidden = clip.model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states[1:]
        rows = round((hidden[0].shape[1] - 1) ** 0.5)
        return [states[:, 1:].transpose(1, 2).unflatten(2, (rows, -1)) for states in hidden]


class PackagedLpips:
    """LPIPS as its authors' package `lpips` computes it, or shift-tolerant LPIPS (Ghildyal & Liu 2022).

    Args:
        variant: "alex" or "vgg": package `lpips`, on torchvision's network, whose weights are downloaded once.
            "shift-tolerant": package `stlpips-pytorch` (AlexNet), whose wheel carries its weights.
        device: where the network runs.

    Raises:
        UserError: the packages are not there, or the weights can't be downloaded.
    """

    def __init__(
        self, variant: Literal["alex", "vgg", "shift-tolerant"], device: torch.device | str = "cpu"
    ) -> None:
        self.name = "ST-LPIPS (AlexNet)" if variant == "shift-tolerant" else f"LPIPS ({variant})"
        self._network = _load(variant).to(device).requires_grad_(False)
        self._device = device

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `Lpips`."""
        check_shapes(a, b, mask)
        a, b = (2 * x.to(self._device) - 1 for x in (a, b))
        return masked_mean(self._network(a, b)[:, 0].cpu(), mask)


def _load(variant: str) -> torch.nn.Module:
    module = "stlpips_pytorch.stlpips" if variant == "shift-tolerant" else "lpips"
    choice = {"net": "alex", "variant": "shift_tolerant"} if variant == "shift-tolerant" else {"net": variant}
    try:
        network: torch.nn.Module = importlib.import_module(module).LPIPS(
            **choice, spatial=True, verbose=False
        )
        return network
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises either
        raise UserError(
            f"LPIPS by {variant} needs packages that are not here or do not load ({error}): pip install "
            "-e '.[lpips]', with a torchvision that matches torch, or use the tabletop CLIP's"
        ) from error
    except (URLError, OSError) as error:
        raise UserError(
            f"LPIPS by {variant}: torchvision's weights can't be downloaded ({error}); shift-tolerant needs no download"
        ) from error


def distance_map(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distance (n, h, w) of features a and b (n, c, h, w), each pixel's normalised first."""
    a, b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (a, b))
    return (a - b).square().sum(1)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (n,) of maps (n, h, w) over their masks; nan where a mask is empty."""
    if mask is None:
        return values.mean(dim=(1, 2))
    inside = mask.to(values)
    return (values * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2))


def check_shapes(a: Tensor, b: Tensor, mask: Tensor | None) -> None:
    """Raise ValueError unless a and b are images (n, 3, h, w) of one shape and the mask is theirs."""
    if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3:
        raise ValueError(f"images {tuple(a.shape)} and {tuple(b.shape)} must be of one shape (n, 3, h, w)")
    if mask is not None and mask.shape != (len(a), *a.shape[-2:]):
        raise ValueError(f"mask {tuple(mask.shape)} does not fit images {tuple(a.shape)}")


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
