"""What a prior offers: all that guidance, samplers and systems know of a diffusion model."""

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
    """The embeddings of b prompts, and of the empty prompt b times, for classifier-free guidance. Without gradients.

    Attributes:
        cond: (b, l, c), the prompts y.
        null: (b, l, c), the empty prompt ∅.
        tokens: (b, l) int64, the prompts' token ids, to align one prompt with another.
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
        """Return `batch` prompts: a single one serves all latents. Raises ValueError for any other mismatch."""
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
        """Join the prompts, one after the other, into one batch."""
        cond, null = torch.cat([p.cond for p in prompts]), torch.cat([p.null for p in prompts])
        return Prompt(cond, null, torch.cat([p.tokens for p in prompts]))


@dataclass(frozen=True)
class SharedAttention:
    """What a target's prediction takes of its source's attention, b of each.

    Attributes:
        batch: b.
        alignment: (b, l) int64, for each token of the targets' prompts the source's whose cross-attention map it takes,
            or -1 for its own (`alignment.align`); the empty prompt takes all of its. None: all keep their own.
        self_tokens: layers of at most so many pixels take the source's self-attention; 0: none.
        together: source and target are predicted in one call, on the b sources followed by the b targets; otherwise in
            two, the sources' first.
    """

    batch: int
    alignment: Tensor | None
    self_tokens: int
    together: bool


class Prior(Protocol):
    """A frozen text-to-image latent diffusion model.

    Not an nn.Module: what holds a prior as an attribute (a LightningModule, a guidance) neither saves its weights in
    its checkpoint nor trains them. In return nobody moves it along: call `to`, as in Lightning's `on_fit_start`.
    """

    def __init__(self, cfg: Any) -> None: ...

    @property
    def schedule(self) -> DiffusionSchedule: ...

    @property
    def image_size(self) -> int:
        """The side in pixels of the square images that it was trained on."""

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
        """Move it in place, and return it."""

    def encode(self, images: Tensor) -> Tensor:
        """Encode images (b, 3, h, w) in [0, 1] to latents (b, c, h/downsample, w/downsample); differentiable."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (b, c, h, w) to images (b, 3, h·downsample, w·downsample) in [0, 1]; differentiable."""

    def embed(self, texts: Sequence[str]) -> Prompt:
        """Embed the prompts, without gradients. Warn of a prompt longer than the text encoder takes."""

    def predict_noise(self, z_t: Tensor, t: Tensor, prompt: Prompt, guidance_scale: float) -> Tensor:
        """Return ε^ω(z_t, y, t) for noisy latents and timesteps (b,), (b, c, h, w) each; differentiable in `z_t`."""

    def self_attention_outputs(self) -> AbstractContextManager[list[Tensor]]:
        """Within the context, `predict_noise` appends to the list the outputs (m, h·w, channels) of the self-attention
        layers of the UNet's decoder half, in order. The last b of the m rows belong to the b prompts (unless ω = 0)."""

    def edit_attention(
        self, edit: Callable[[str, Tensor], Tensor], cross: bool, batch: int
    ) -> AbstractContextManager[None]:
        """Within the context, `predict_noise` on `batch` latents replaces the maps (batch, heads, queries, keys) of
        each cross-attention (cross=False: self-attention) layer by edit(layer, maps); the empty prompts' maps stay."""

    def share_attention(self, shared: SharedAttention) -> AbstractContextManager[None]:
        """Within the context, `predict_noise` gives the target the attention of the source, as `shared` says."""

    def edit_activations(
        self, edit: Callable[[str, Tensor], Tensor], features: bool, queries_and_keys: bool
    ) -> AbstractContextManager[None]:
        """Within the context, `predict_noise` replaces what Plug-and-Play injects by edit(layer, activation): the
        features (m, c, h, w) of a residual block amid the decoder half, and the queries and keys (m, h·w, c) of its
        self-attention layers. The m rows are all, those of the empty prompts first (unless ω is 0 or 1)."""

    def follow_edges(self, source: str, target: str) -> float:
        """How many latent pixels far an edit's change to a picture is carried to that picture's own edges; 0: not."""

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a prompt that this prior cannot have learned, in order; [] where it can't tell."""


def editing_size(height: int, width: int, prior: Prior) -> tuple[int, int]:
    """Return (height, width) to edit an image at: the short side is the prior's, the long one keeps the proportions.

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
        raise UserError(f"images of {width}x{height} are too oblong for a prior of {prior.image_size} pixels")
    return new_height, new_width
