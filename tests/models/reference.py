"""What the guidance tests hold the project against: diffusers' networks, called plainly, one latent at a time.

Written from the formulas of the papers. Nothing here comes from the project: neither its schedule, its classifier-free
guidance, its prompts, its noises nor its batches. Everything is in double precision.
"""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer


def alphas_cumprod(start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> list[float]:
    """The scaled linear schedule of Stable Diffusion."""
    bars, bar = [], 1.0
    for i in range(steps):
        root = math.sqrt(start) + (math.sqrt(end) - math.sqrt(start)) * i / (steps - 1)
        bar *= 1 - root**2
        bars.append(bar)
    return bars


class _Recording(AttnProcessor2_0):
    """diffusers' attention, keeping what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.output: Tensor = torch.empty(0)

    def __call__(self, *args, **kwargs):
        self.output = super().__call__(*args, **kwargs)
        return self.output


@dataclass
class Draws:
    """The timestep and the noises of one latent."""

    t: int
    noises: Tensor


class Reference:
    def __init__(self, folder: Path, prediction_type: str) -> None:
        # Of diffusers' betas, rounded to single precision: three iterations of FPR at ω = 7.5 make a thousand
        # times more of what that changes.
        betas = DDIMScheduler.from_pretrained(folder, subfolder="scheduler").betas.double().tolist()
        self.bars = list(itertools.accumulate((1 - beta for beta in betas), operator.mul))
        assert max(abs(a / b - 1) for a, b in zip(self.bars, alphas_cumprod(), strict=True)) < 1e-5
        self.prediction_type = prediction_type
        self.unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").double()
        self.channels: int = self.unet.config.in_channels
        self.text_encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").double()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        self.tokens = self.text_encoder.config.max_position_embeddings
        names = [name for name in self.unet.attn_processors if name.startswith("up") and ".attn1." in name]
        self.recorders = {name: _Recording() for name in names}
        self.unet.set_attn_processor({**self.unet.attn_processors, **self.recorders})

    def text(self, prompt: str) -> Tensor:
        ids = self.tokenizer(
            prompt, padding="max_length", max_length=self.tokens, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            return self.text_encoder(ids)[0]

    def noise(self, z_t: Tensor, prompt: str, t: int, w: float) -> Tensor:
        """ε^ω(z_t, y, t) for one latent (1, c, h, w); `features` are then those of the prompt's half."""
        null, cond = (self.unet(z_t, t, self.text(text)).sample for text in ("", prompt))
        bar = self.bars[t]
        if self.prediction_type == "v_prediction":
            null, cond = (math.sqrt(bar) * v + math.sqrt(1 - bar) * z_t for v in (null, cond))
        return (1 - w) * null + w * cond

    def noised(self, z: Tensor, eps: Tensor, t: int) -> Tensor:
        return math.sqrt(self.bars[t]) * z + math.sqrt(1 - self.bars[t]) * eps

    def residual(self, z_src: Tensor, z_t: Tensor, prompt: str, t: int, w: float) -> Tensor:
        """‖z_src − z_{0|t}‖₂, a scalar."""
        bar = self.bars[t]
        z_0 = (z_t - math.sqrt(1 - bar) * self.noise(z_t, prompt, t, w)) / math.sqrt(bar)
        return ((z_src - z_0) ** 2).sum().sqrt()

    def features(self) -> list[Tensor]:
        """(tokens, channels) of each self-attention layer of the decoder half in the last call of the UNet."""
        return [recorder.output[0] for recorder in self.recorders.values()]


def draws(
    generator: torch.Generator, batch: int, low: int, high: int, noises: int = 1, channels: int = 4
) -> list[Draws]:
    """Latent by latent: an integer in [low, high], then the noises."""
    result = []
    for _ in range(batch):
        t = int(torch.randint(low, high + 1, (1,), generator=generator))
        result.append(Draws(t, torch.randn(noises, channels, 8, 8, generator=generator).double()[:, None]))
    return result


def cut(source: list[Tensor], target: list[Tensor], ids: dict[tuple[int, int], list[int]]) -> Tensor:
    """PatchNCE over layers and patch sizes; `ids[layer, patch size]` are the patches that were drawn."""
    total = torch.zeros((), dtype=torch.float64)
    for layer, (src, trg) in enumerate(zip(source, target, strict=True)):
        for size in (1, 2):
            patches = []
            for features in (src, trg):
                side = math.isqrt(len(features))
                image = features.reshape(side, side, -1)
                mean = sum(image[i::size, j::size] for i in range(size) for j in range(size)) / size**2
                flat = mean.reshape(-1, mean.shape[-1])
                patches.append(flat / flat.norm(dim=1, keepdim=True))
            terms = []
            for i in ids[layer, size]:
                similar = patches[1] @ patches[0][i].detach() / 0.07
                terms.append(torch.logsumexp(similar[ids[layer, size]], 0) - similar[i])
            total = total + sum(terms) / len(terms)
    return total
