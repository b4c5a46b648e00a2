"""Plug-and-Play diffusion features: Tumanyan et al. 2023, arXiv 2211.12572."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.models.samplers.ddim import SamplerConfig, ddim_invert, ddim_step, ddim_timesteps
from ids3d.models.samplers.protocol import Show
from ids3d.registry import register


@register("sampler", "pnp")
class PnP:
    """DDIM inversion of the source, then sampling of the target with the source's features, queries and keys.

    They are those of the inversion's own latents with the source prompt, and replace the target's both with its prompt
    and with the empty one (algorithm 1).
    """

    @dataclass
    class Config(SamplerConfig):
        feature_share: float = (
            0.8  # of the steps, the first ones, in which a residual block's features are injected
        )
        attention_share: float = 0.5  # ... and the self-attention's queries and keys

        def __post_init__(self) -> None:
            super().__post_init__()
            if not (0 <= self.feature_share <= 1 and 0 <= self.attention_share <= 1):
                raise ValueError("feature_share and attention_share are shares of the steps: expected 0 to 1")

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
        z = inverted[0]
        for i, now in enumerate(times):
            features = i < round(cfg.feature_share * cfg.steps)
            attention = i < round(cfg.attention_share * cfg.steps)
            eps = self._predict(inverted[i], z, now, source, target, features, attention)
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
        features: bool,
        attention: bool,
    ) -> Tensor:
        """The target's noise, with the source's features, queries and keys in place of its own where asked."""
        prior, t = self.prior, torch.full((len(z_t),), now, device=z_t.device)
        kept: dict[str, Tensor] = {}

        def keep(layer: str, own: Tensor) -> Tensor:
            kept[layer] = own
            return own

        def take(layer: str, own: Tensor) -> Tensor:
            return torch.cat([kept[layer]] * (len(own) // len(kept[layer])))

        if features or attention:
            with prior.edit_structure(keep, features, attention):
                prior.predict_noise(z_t_src, t, source, 1.0)
        with prior.edit_structure(take, features, attention):
            return prior.predict_noise(z_t, t, target, self.cfg.guidance_scale)
