"""A prior that believes every image to be of one colour: the one that its prompt names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ids3d.models.priors.protocol import Prompt, SharedAttention
from ids3d.schedule import DiffusionSchedule

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}
GREY = (0.5, 0.5, 0.5)


class OneColour:
    """Latents are images in [-1, 1], half as wide and high."""

    @dataclass
    class Config:
        image_size: int = 16

    latent_channels, downsample, world = 3, 2, ""

    def __init__(self, cfg: Config) -> None:
        self.image_size, self.device = cfg.image_size, torch.device("cpu")
        self.schedule = DiffusionSchedule(torch.linspace(0.999, 0.001, 100))

    def to(self, device: torch.device | str) -> OneColour:
        self.device = torch.device(device)
        return self

    def encode(self, images: Tensor) -> Tensor:
        return 2 * F.avg_pool2d(images, 2) - 1

    def decode(self, latents: Tensor) -> Tensor:
        return F.interpolate((latents + 1) / 2, scale_factor=2).clamp(0, 1)

    def embed(self, texts: Sequence[str]) -> Prompt:
        named = [[COLOURS[word] for word in text.split() if word in COLOURS] for text in texts]
        cond = torch.tensor([[found[0] if found else GREY] for found in named], device=self.device)
        null = torch.tensor([[GREY]], device=self.device).expand_as(cond)
        return Prompt(cond, null, torch.zeros(len(texts), 1, dtype=torch.int64, device=self.device))

    def predict_noise(self, z_t: Tensor, t: Tensor, prompt: Prompt, guidance_scale: float) -> Tensor:
        prompt = prompt.expand(len(z_t))
        cond, null = (self._noise(z_t, t, colour[:, 0]) for colour in (prompt.cond, prompt.null))
        return null + guidance_scale * (cond - null)

    def _noise(self, z_t: Tensor, t: Tensor, colour: Tensor) -> Tensor:
        mean = (2 * colour - 1)[..., None, None]
        return (z_t - self.schedule.alpha(t, z_t) * mean) / self.schedule.sigma(t, z_t)

    def follow_edges(self, source: str, target: str) -> float:
        return 0.0

    def unknown_words(self, text: str) -> list[str]:
        return []

    # It has no attention and no structure: nothing is shown, and nothing can be changed.

    def self_attention_outputs(self) -> AbstractContextManager[list[Tensor]]:
        return nullcontext([])

    def edit_attention(
        self, edit: Callable[[str, Tensor], Tensor], cross: bool, batch: int
    ) -> AbstractContextManager[None]:
        return nullcontext()

    def share_attention(self, shared: SharedAttention) -> AbstractContextManager[None]:
        return nullcontext()

    def edit_activations(
        self, edit: Callable[[str, Tensor], Tensor], features: bool, queries_and_keys: bool
    ) -> AbstractContextManager[None]:
        return nullcontext()
