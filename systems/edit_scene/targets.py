"""What the field is fitted to while a scene is edited: its views' edited images, and which of their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ids3d.systems.edit_scene.region import Region

TINT, FADED = 0.1, 0.3
"""Changes, of images in [0, 1]: up to the first, a tint, all is left of what the autoencoder lost of the source;
from the second on nothing, since something else is there."""

FAINT, NOTHING = 1e-3, 1e-15
"""See `EditedImages.faint`."""


@dataclass(frozen=True)
class EditedImages:
    """The training views' edited images, as kept * source + added, and how their pixels are drawn.

    Attributes:
        kept: (n, H, W, 1) in [0, 1].
        added: (n, H, W, 3).
        cumulative: (n * H * W,) float64, the sum of √|change| over the pixels so far, counted through all views.
        replaces: whether something else is put anywhere, as `fading` has it.
        split: the numbers of all pixels inside and outside of the region; None: it is everywhere.
    """

    kept: Tensor
    added: Tensor
    cumulative: Tensor
    replaces: bool
    split: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, change: Tensor, faded: Tensor, decoded: Tensor, region: Region | None) -> EditedImages:
        """Make them of what an edit changes, and where the source's decoded image takes the place of its own.

        Args:
            change: (n, 3, H, W), decode(z_trg) − decode(z_src).
            faded: (n, 1, H, W) in [0, 1]; see `fading`.
            decoded: (n, 3, H, W), decode(z_src).
            region: where all of this may act.
        """
        if region is not None:
            weights = region.images[:, None]
            change, faded = weights * change, weights * faded
        kept, added = (x.permute(0, 2, 3, 1) for x in (1 - faded, change + faded * decoded))
        cumulative = change.abs().amax(dim=1).flatten().double().sqrt().cumsum(0)
        split = None
        if region is not None:
            inside = region.images.flatten() > 0
            split = inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]
        return cls(kept, added, cumulative, bool(faded.any()), split)

    def pixels(self, n: int, changed: float, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw n pixels, counted through all views; with a region, half of them from it and half from outside.

        Args:
            changed: the share of those of the region that are drawn in proportion to √|change|: an object of another
                shape is seen by few of the rays that are drawn anywhere. The others are.
            generator: on the CPU.

        Returns: pixels of the region, and others, which hold what rays of the region reach as it was; None where the
            region is everywhere.
        """
        if self.split is None:
            return self._within(n, changed, len(self.cumulative), generator), None
        of_region, others = self.split
        half = (n + 1) // 2
        inside = self._within(half, changed, of_region, generator)
        return inside, others[_drawn(half, len(others), generator, others)] if len(others) else None

    def faint(self, rays: int) -> float:
        """Adam's ε for a mean over `rays` rays.

        Adam steps as far for what a ray meets faintly, at margins that few views see, as for what it shows, and leaves
        grain there; ε, a small share of one ray's gradient, stops that. There is none where something else is put: it
        grows out of nothing, which a ray meets faintly too.
        """
        return NOTHING if self.replaces else FAINT / rays

    def _within(self, n: int, changed: float, where: Tensor | int, generator: torch.Generator) -> Tensor:
        """n pixels from `where`: their numbers, or how many they are."""
        by_change = round(changed * n) if self.cumulative[-1] > 0 else 0
        heights = torch.rand(by_change, generator=generator, dtype=torch.float64).to(self.cumulative)
        most = torch.searchsorted(self.cumulative, heights * self.cumulative[-1], right=True)
        most = most.clamp(max=len(self.cumulative) - 1)
        count = where if isinstance(where, int) else len(where)
        rest = _drawn(n - by_change, count, generator, most)
        return torch.cat([most, rest if isinstance(where, int) else where[rest]])


def fading(change: Tensor) -> Tensor:
    """Where a source's details go with what was there: 0 up to a change of TINT, smoothly to 1 at one of FADED.

    A photograph's details that an autoencoder loses, above all outlines, belong to what it shows. Where an edit puts
    something else, they would stay behind as a ghost of it.

    Args:
        change: (b, 3, ...), such as images or pixels. Returns: (b, 1, ...).
    """
    share = ((change.abs().amax(dim=1, keepdim=True) - TINT) / (FADED - TINT)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def edited_opacity(
    known: Tensor, kept: Tensor, edited: Tensor, background: tuple[float, float, float]
) -> Tensor:
    """The opacity (n,) of pixels of edited cut-outs: where something else is put, it may grow beyond what was cut out.

    It does where it is edited to differ from the background. What was cut out stays opaque, even if it is edited to be
    as the background is, since a white object before white is not a hole.

    Args:
        known: (n,) in [0, 1], the photographs'.
        kept: (n, 1), see `EditedImages`; edited: (n, 3), colours.
        background: the colour that the photographs' empty parts have.
    """
    shown = (1 - kept) * fading(edited - edited.new_tensor(background))
    return known + (1 - known) * shown[:, 0]


def enlarged(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (b, c, h, w) at a size (height, width)."""
    return F.interpolate(images, size, mode="bicubic")


def _drawn(n: int, below: int, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randint(below, (n,), generator=generator).to(like.device)
