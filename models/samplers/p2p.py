"""Prompt-to-Prompt: Hertz et al. 2022, arXiv 2208.01626."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from ids3d.config.bounds import SHARE, check_bounds
from ids3d.models.priors.alignment import align
from ids3d.models.samplers.ddim_sampler import DDIMSampler, SamplerConfig, SamplingStep
from ids3d.registry import register


@register("sampler", "p2p")
class P2P(DDIMSampler):
    """Invert the source by DDIM, then sample the target with the source's attention maps.

    The maps are those of the inversion's own latents with the source prompt, so that the source, which sampling at a
    high guidance scale would drift away from, is met exactly (Ju et al. 2023, arXiv 2310.01506, find that best). Maps
    of the empty prompt are not touched.
    """

    @dataclass
    class Config(SamplerConfig):
        # Share of the steps, the first ones, in which the source's cross-attention maps are used.
        cross_share: float = 0.8
        # Share of the steps, the first ones, in which the source's self-attention maps are used.
        self_share: float = 0.4
        self_tokens: int = 256  # layers with more pixels than this keep their own self-attention maps

        def __post_init__(self) -> None:
            super().__post_init__()
            check_bounds(self, cross_share=SHARE, self_share=SHARE, self_tokens="[0, 1e9]")

    cfg: Config

    def predict_noise(self, step: SamplingStep) -> Tensor:
        """Return the target's noise, predicted with the source's attention maps while they are used."""
        cfg, prior, b = self.cfg, self.prior, len(step.z_t)
        where = align(step.source.tokens, step.target.tokens)[:, None, None]
        maps: dict[str, Tensor] = {}

        def keep(layer: str, own: Tensor) -> Tensor:
            maps[layer] = own
            return own

        def take_cross(layer: str, own: Tensor) -> Tensor:
            at = where.expand(*own.shape[:-1], -1)
            return torch.where(at >= 0, maps[layer].gather(-1, at.clamp(min=0)), own)

        def take_self(layer: str, own: Tensor) -> Tensor:
            return own if own.shape[-1] > cfg.self_tokens else maps[layer]

        edits = []
        if step.index < round(cfg.cross_share * cfg.steps):
            edits.append((True, take_cross))
        if step.index < round(cfg.self_share * cfg.steps):
            edits.append((False, take_self))
        with ExitStack() as recording:
            for cross, _ in edits:
                recording.enter_context(prior.edit_attention(keep, cross, b))
            if edits:
                prior.predict_noise(step.z_t_src, step.t, step.source, 1.0)
        with ExitStack() as taking:
            for cross, take in edits:
                taking.enter_context(prior.edit_attention(take, cross, b))
            return prior.predict_noise(step.z_t, step.t, step.target, cfg.guidance_scale)
