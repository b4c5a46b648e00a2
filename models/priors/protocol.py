"""What the rest of the project knows of a diffusion model. The methods in models/guidance/ are functions over this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ids3d.errors import UserError
from ids3d.schedule import DiffusionSchedule


@dataclass(frozen=True)
class Prompt:
    """The embeddings of b prompts, and of the empty prompt as often, for classifier-free guidance.

    cond: (b, l, c), the prompts y;  null: (b, l, c), the empty prompt ∅. Without gradients.
    tokens: (b, l), the prompts' token ids, int64, for what aligns one prompt with another.
    """

    cond: Tensor
    null: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.cond)

    def __getitem__(self, index: slice | Tensor) -> Prompt:
        return Prompt(self.cond[index], self.null[index], self.tokens[index])

    def to(self, device: torch.device | str) -> Prompt:
        return Prompt(self.cond.to(device), self.null.to(device), self.tokens.to(device))

    def expand(self, batch: int) -> Prompt:
        """As many prompts as latents: a single prompt serves all of them. Raises ValueError for another mismatch."""
        if len(self) == batch:
            return self
        if len(self) != 1:
            raise ValueError(
                f"{len(self)} prompts for {batch} latents: expected one prompt, or one for each latent"
            )
        return Prompt(
            self.cond.expand(batch, -1, -1), self.null.expand(batch, -1, -1), self.tokens.expand(batch, -1)
        )

    @staticmethod
    def cat(prompts: Sequence[Prompt]) -> Prompt:
        """The prompts one after the other, as one batch."""
        cond, null = torch.cat([p.cond for p in prompts]), torch.cat([p.null for p in prompts])
        return Prompt(cond, null, torch.cat([p.tokens for p in prompts]))


class Prior(Protocol):
    """A frozen text-to-image latent diffusion model. A protocol: nothing needs to inherit from it."""

    def __init__(self, cfg: Any) -> None: ...

    @property
    def schedule(self) -> DiffusionSchedule: ...

    @property
    def image_size(self) -> int:
        """The side in pixels of the square pictures that it was trained on."""

    @property
    def world(self) -> str:
        """The name of the one small world that it was trained on; empty for photographs at large."""

    @property
    def latent_channels(self) -> int: ...

    @property
    def downsample(self) -> int:
        """Pixels per latent pixel, along each side."""

    @property
    def device(self) -> torch.device: ...

    def to(self, device: torch.device | str) -> Prior:
        """Moves it in place, and returns it."""

    def encode(self, images: Tensor) -> Tensor:
        """Pictures (b, 3, h, w) in [0, 1] to latents (b, c, h/downsample, w/downsample); differentiable."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, c, h, w) to pictures (b, 3, h·downsample, w·downsample) in [0, 1]; differentiable."""

    def embed(self, texts: Sequence[str]) -> Prompt:
        """The embeddings of the prompts, without gradients. Warns of a prompt longer than the text encoder takes."""

    def predict_noise(self, z_t: Tensor, t: Tensor, prompt: Prompt, guidance_scale: float) -> Tensor:
        """ε^ω(z_t, y, t) (b, c, h, w) for noisy latents (b, c, h, w) and timesteps (b,); differentiable in `z_t`."""

    def self_attention_outputs(self) -> AbstractContextManager[list[Tensor]]:
        """While it is entered, `predict_noise` appends to the list the outputs (m, h·w, channels) of the self-attention
        layers of the UNet's decoder half, in order. The last b of m rows belong to the b prompts (unless ω = 0)."""

    def edit_attention(
        self, edit: Callable[[str, Tensor], Tensor], cross: bool, batch: int
    ) -> AbstractContextManager[None]:
        """While it is entered, `predict_noise` asks edit(layer, maps) for the maps that each cross-attention (or, with
        cross=False, self-attention) layer of the UNet uses for its prompts: (batch, heads, queries, keys)."""

    def edit_structure(
        self, edit: Callable[[str, Tensor], Tensor], features: bool, queries_and_keys: bool
    ) -> AbstractContextManager[None]:
        """While it is entered, `predict_noise` goes on with edit(layer, activation) in place of what carries structure
        (Plug-and-Play): the features of a residual block amid the decoder half, and the queries and keys of its
        self-attention layers. Activations are of all rows, those of the empty prompts first (unless ω is 0 or 1)."""

    def unknown_words(self, text: str) -> list[str]:
        """The words of a prompt that this prior cannot have learned, in order; [] where it can't tell."""


def editing_size(height: int, width: int, prior: Prior) -> tuple[int, int]:
    """(height, width) at which a picture is edited: the short side is the prior's, the long one keeps the proportions.

    The long side is rounded to whole latent pixels; cameras resized so stay exact (fx and fy scale apart).

    Raises:
        UserError: a side would be more than four times the prior's.
    """
    scale = prior.image_size / min(height, width)
    new_height, new_width = (
        max(prior.image_size, round(side * scale / prior.downsample) * prior.downsample)
        for side in (height, width)
    )
    if max(new_height, new_width) > 4 * prior.image_size:
        raise UserError(
            f"pictures of {width}x{height} are too oblong for a prior of {prior.image_size} pixels"
        )
    return new_height, new_width
