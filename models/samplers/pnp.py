"""Plug-and-Play diffusion features: Tumanyan et al. 2023, arXiv 2211.12572."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ids3d.config.bounds import SHARE, check_bounds
from ids3d.models.samplers.ddim_sampler import DDIMSampler, SamplerConfig, SamplingStep
from ids3d.registry import register


@register("sampler", "pnp")
class PnP(DDIMSampler):
    """Invert the source by DDIM, then sample the target with the source's features, queries and keys (algorithm 1).

    They are those of the inversion's own latents with the source prompt, and replace the target's both with its prompt
    and with the empty one.
    """

    @dataclass
    class Config(SamplerConfig):
        # Share of the steps, the first ones, in which a residual block's features are injected.
        feature_share: float = 0.8
        attention_share: float = 0.5  # the same, of the self-attention's queries and keys

        def __post_init__(self) -> None:
            super().__post_init__()
            check_bounds(self, feature_share=SHARE, attention_share=SHARE)

    cfg: Config

    def predict_noise(self, step: SamplingStep) -> Tensor:
        """Return the target's noise, predicted with the source's features, queries and keys while they are injected."""
        cfg, prior = self.cfg, self.prior
        features = step.index < round(cfg.feature_share * cfg.steps)
        queries_and_keys = step.index < round(cfg.attention_share * cfg.steps)
        kept: dict[str, Tensor] = {}

        def keep(layer: str, own: Tensor) -> Tensor:
            kept[layer] = own
            return own

        def take(layer: str, own: Tensor) -> Tensor:
            return torch.cat([kept[layer]] * (len(own) // len(kept[layer])))

        if features or queries_and_keys:
            with prior.edit_activations(keep, features, queries_and_keys):
                prior.predict_noise(step.z_t_src, step.t, step.source, 1.0)
        with prior.edit_activations(take, features, queries_and_keys):
            return prior.predict_noise(step.z_t, step.t, step.target, cfg.guidance_scale)
