"""Prompt-to-Prompt: Hertz et al. 2022, arXiv 2208.01626."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
from torch import Tensor

from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.models.samplers.ddim import SamplerConfig, ddim_invert, ddim_step, ddim_timesteps
from ids3d.models.samplers.protocol import Show
from ids3d.registry import register


@register("sampler", "p2p")
class P2P:
    """DDIM inversion of the source, then sampling of the target with the source's attention maps.

    The maps are those of the inversion's own latents with the source prompt, so that the source, which sampling at a
    high guidance scale would drift away from, is met exactly (Ju et al. 2023, arXiv 2310.01506, find that best). Maps
    of the empty prompt are not touched.
    """

    @dataclass
    class Config(SamplerConfig):
        cross_share: float = (
            0.8  # of the steps, the first ones, in which the source's cross-attention maps are used
        )
        self_share: float = 0.4  # ... and its self-attention maps
        self_tokens: int = 256  # layers with more pixels than this keep their own self-attention maps

        def __post_init__(self) -> None:
            super().__post_init__()
            if not (0 <= self.cross_share <= 1 and 0 <= self.self_share <= 1):
                raise ValueError("cross_share and self_share are shares of the steps: expected 0 to 1")

    def __init__(self, cfg: Config, prior: Prior) -> None:
        self.cfg, self.prior = cfg, prior

    @torch.no_grad()
    def edit(
        self,
        z_src: Tensor,
        source: Prompt,
        target: Prompt,
        generators: Sequence[torch.Generator],
        show: Show | None = None,
    ) -> Tensor:
        """The edited latents (b, c, h, w); see `protocol.Sampler.edit`. Nothing is drawn."""
        cfg, prior, b = self.cfg, self.prior, len(z_src)
        source, target = source.expand(b), target.expand(b)
        inverted = ddim_invert(prior, z_src, source, cfg.steps, guidance_scale=1.0)
        times = ddim_timesteps(prior.schedule, cfg.steps)
        where = alignment(source.tokens, target.tokens)
        z = inverted[0]
        for i, now in enumerate(times):
            eps = self._predict(
                inverted[i],
                z,
                now,
                source,
                target,
                where if i < round(cfg.cross_share * cfg.steps) else None,
                i < round(cfg.self_share * cfg.steps),
            )
            z, clean = ddim_step(prior.schedule, z, eps, now, times[i + 1] if i + 1 < len(times) else -1)
            if show is not None:
                show(clean, (i + 1) / len(times))
        return z

    def _predict(
        self,
        z_t_src: Tensor,
        z_t: Tensor,
        now: int,
        source: Prompt,
        target: Prompt,
        where: Tensor | None,
        selves: bool,
    ) -> Tensor:
        """The target's noise, with the source's cross-attention maps `where` there are, and its self-attention maps."""
        cfg, prior, b = self.cfg, self.prior, len(z_t)
        t, maps = torch.full((b,), now, device=z_t.device), dict[str, Tensor]()

        def keep(layer: str, own: Tensor) -> Tensor:
            maps[layer] = own
            return own

        def take_cross(layer: str, own: Tensor) -> Tensor:
            assert where is not None
            at = where[:, None, None].expand(*own.shape[:-1], -1)
            return torch.where(at >= 0, maps[layer].gather(-1, at.clamp(min=0)), own)

        def take_self(layer: str, own: Tensor) -> Tensor:
            return own if own.shape[-1] > cfg.self_tokens else maps[layer]

        kinds = [(True, take_cross)] * (where is not None) + [(False, take_self)] * selves
        with ExitStack() as recording:
            for cross, _ in kinds:
                recording.enter_context(prior.edit_attention(keep, cross, b))
            if kinds:
                prior.predict_noise(z_t_src, t, source, 1.0)
        with ExitStack() as taking:
            for cross, take in kinds:
                taking.enter_context(prior.edit_attention(take, cross, b))
            return prior.predict_noise(z_t, t, target, cfg.guidance_scale)


def alignment(source: Tensor, target: Tensor) -> Tensor:
    """For each token of the target prompts the source's token whose map it takes, or -1: (b, l) from ids (b, l) each.

    Tokens that both prompts have, in order, and words exchanged for as many others (the paper's "word swap") take the
    source's maps; added ones keep their own ("prompt refinement").
    """
    where = torch.full_like(target, -1)
    for row, (a, b) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        for kind, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            if kind == "equal" or (kind == "replace" and a1 - a0 == b1 - b0):
                where[row, b0:b1] = torch.arange(a0, a1)
    return where
