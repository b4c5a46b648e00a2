"""What all methods share, so that the file of each is its settings and its gradient alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ids3d.models.guidance.protocol import (
    Generators,
    Guidance,
    GuidanceConfig,
    GuidanceOutput,
    GuidanceTrace,
)
from ids3d.models.guidance.sampling import sample_timestep_and_noise
from ids3d.models.priors.alignment import align
from ids3d.models.priors.protocol import Prior, Prompt, SharedAttention

__all__ = ["Distillation", "EditStep", "GuidanceConfig"]


@dataclass(frozen=True)
class EditStep:
    """What a method's gradient is taken of. No tensor has a graph.

    Attributes:
        z_src, z_trg: the latents of source and target, (b, c, h, w).
        source, target: their prompts, b each.
        t: (b,) int64, the timesteps.
        noises: as many as the method's `noises`, (b, c, h, w) each.
        generator: where a method draws what else it needs.
        progress: how much of the run is done, in [0, 1].
        figures: for logging only, means over the batch; a method adds its own.
        residuals: for logging only, (b,) each: a method that iterates adds what is left after 0, 1, ... iterations.
    """

    z_src: Tensor
    z_trg: Tensor
    source: Prompt
    target: Prompt
    t: Tensor
    noises: tuple[Tensor, ...]
    generator: Generators
    progress: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    residuals: list[Tensor] = field(default_factory=list)

    @property
    def eps(self) -> Tensor:
        """ε (b, c, h, w), the noise of z_t."""
        return self.noises[0]


class Distillation(Guidance, ABC):
    """A method as papers write it: a gradient at a timestep t and a noise ε, both drawn anew at each call.

    A method inherits from this, holds a `Config` and writes `gradient`. It need not: `Guidance` is all that counts.
    """

    noises = 1
    """How many noises a method draws for each latent."""

    def __init__(self, cfg: GuidanceConfig, prior: Prior) -> None:
        self.cfg, self.prior, self.schedule = cfg, prior, prior.schedule

    @property
    def first_timestep(self) -> int:
        """The least timestep that is drawn, whatever the settings say."""
        return 0

    @abstractmethod
    def gradient(self, step: EditStep) -> Tensor:
        """Return ∇ (b, c, h, w), before w(t) and `max_rms`. Runs without a graph; `torch.enable_grad` opens one."""

    @torch.no_grad()
    def __call__(
        self,
        z_src: Tensor,
        z_trg: Tensor,
        source: Prompt,
        target: Prompt,
        generator: Generators,
        progress: float = 0.0,
    ) -> GuidanceOutput:
        cfg, b = self.cfg, len(z_trg)
        limits = cfg.timestep_limits(self.schedule.num_timesteps, progress)
        low, high = (max(limit, self.first_timestep) for limit in limits)
        t, *noises = sample_timestep_and_noise(low, high, z_trg, generator, self.noises)
        step = EditStep(
            z_src.detach(),
            z_trg.detach(),
            source.expand(b),
            target.expand(b),
            t,
            tuple(noises),
            generator,
            progress,
        )
        grad = self.gradient(step).detach()
        if cfg.weighting == "sigma2":
            grad = grad * self.schedule.sigma(t, grad) ** 2
        rms = grad.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        if cfg.max_rms is not None:
            grad = grad * (cfg.max_rms / rms.clamp(min=cfg.max_rms))
        figures = {"t": t.float().mean().item(), "grad_rms": rms.mean().item(), **step.figures}
        residuals = torch.stack(step.residuals, dim=1) if step.residuals else None
        return GuidanceOutput(grad, figures, GuidanceTrace(t, rms[:, 0, 0, 0], residuals))

    def takes_maps(self, step: EditStep) -> bool:
        """Whether the target is predicted with the source's maps of the words in this step."""
        # With ω = 0 there is only the empty prompt, whose maps belong to no word.
        cfg = self.cfg
        return cfg.attention != "none" and cfg.guidance_scale != 0 and step.progress < cfg.attention_share

    def takes_attention(self, step: EditStep) -> bool:
        """Whether the target is predicted with any of the source's attention in this step."""
        return self.cfg.attention == "cross+self" or self.takes_maps(step)

    @contextmanager
    def shared_attention(self, step: EditStep, together: bool) -> Iterator[None]:
        """Within the context, the target is predicted with the source's attention, as the settings say."""
        cfg = self.cfg
        if not self.takes_attention(step):
            yield
            return
        aligned = align(step.source.tokens, step.target.tokens) if self.takes_maps(step) else None
        self_tokens = cfg.self_tokens if cfg.attention == "cross+self" else 0
        with self.prior.share_attention(SharedAttention(len(step.t), aligned, self_tokens, together)):
            yield

    def predict_pair(self, step: EditStep, z_t_src: Tensor, z_t_trg: Tensor) -> tuple[Tensor, Tensor]:
        """Return ε^ω(z_t^src, y_src, t) and ε^ω(z_t^trg, y_trg, t), (b, c, h, w) each.

        Every method that compares source and target predicts both here. Without a graph it is one call of the UNet, of
        4b: on a CPU 0.75 of the time of two calls of 2b. Where `z_t_trg` requires a gradient, it is two calls, the
        source's first, and only the target's has a graph: call within `shared_attention(step, together=False)`, and
        differentiate there too, for what is recomputed backwards.
        """
        t, w = step.t, self.cfg.guidance_scale
        if z_t_trg.requires_grad:
            with torch.no_grad():
                eps_src = self.prior.predict_noise(z_t_src, t, step.source, w)
            return eps_src, self.prior.predict_noise(z_t_trg, t, step.target, w)
        prompts = Prompt.cat([step.source, step.target])
        with self.shared_attention(step, together=True):
            both = self.prior.predict_noise(torch.cat([z_t_src, z_t_trg]), torch.cat([t, t]), prompts, w)
        eps_src, eps_trg = both.chunk(2)
        return eps_src, eps_trg
