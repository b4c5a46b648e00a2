"""What a guidance method offers, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from ids3d.config.bounds import SHARE, check_bounds
from ids3d.models.priors.protocol import Prior, Prompt

Generators: TypeAlias = torch.Generator | Sequence[torch.Generator]
"""What a method draws from: one generator for all latents of a batch in turn, or one for each, so that what a latent
gets does not depend on what else is in its batch."""


@dataclass
class GuidanceConfig:
    """The settings that all methods share, and keep when one is exchanged for another.

    A method's own Config adds to them, or changes a default.
    """

    guidance_scale: float = 7.5  # ω of classifier-free guidance
    # The part of the schedule that timesteps are drawn from, ends included.
    t_range: tuple[float, float] = (0.05, 0.95)
    # The part to which t_range moves linearly as the edit goes from its start to its end; null: it stays.
    t_range_end: tuple[float, float] | None = None
    weighting: Literal["one", "sigma2"] = "one"  # w(t), a factor of the gradient: 1, or σ_t² = 1 − ᾱ_t
    # What the target's score takes of the source's attention, from the pass that computes the source's score: nothing,
    # as published; the cross-attention maps, token by token as in Prompt-to-Prompt; and the self-attention's.
    attention: Literal["none", "cross", "cross+self"] = "none"
    # Share of the run, its first part, in which the words' maps are taken; later the new words look for their places
    # themselves. The self-attention is taken to the end.
    attention_share: float = 0.75
    self_tokens: int = 1024  # layers with more pixels than this keep the target's own self-attention
    max_rms: float | None = None  # a latent's gradient with a greater root mean square is scaled down to this

    def __post_init__(self) -> None:
        check_bounds(
            self,
            guidance_scale="[0, 1e4]",
            max_rms="(0, 1e6]",
            t_range="[0, 1]",
            t_range_end="[0, 1]",
            attention_share=SHARE,
            self_tokens="[0, 1e6]",
        )
        for low, high in filter(None, (self.t_range, self.t_range_end)):
            if low > high:
                raise ValueError(f"a range of timesteps [{low}, {high}]: expected 0 <= low <= high <= 1")

    def timestep_limits(self, num_timesteps: int, progress: float = 0.0) -> tuple[int, int]:
        """Return the first and the last timestep that may be drawn when `progress` in [0, 1] of the run is done."""
        p = min(max(progress, 0.0), 1.0)
        end = self.t_range if self.t_range_end is None else self.t_range_end
        low, high = ((1 - p) * a + p * b for a, b in zip(self.t_range, end, strict=True))
        last = num_timesteps - 1
        return min(round(low * num_timesteps), last), min(round(high * num_timesteps), last)


@dataclass(frozen=True)
class GuidanceTrace:
    """What can be drawn of the batch's latents, each by itself; for logging only.

    Attributes:
        t: (b,), the timesteps.
        grad_rms: (b,), the root mean square of the gradient before `max_rms`.
        residuals: (b, N + 1), of fixed-point regularisation: ‖z_src − z_{0|t}‖ after 0 to N iterations; None: another
            method.
    """

    t: Tensor
    grad_rms: Tensor
    residuals: Tensor | None = None


@dataclass(frozen=True)
class GuidanceOutput:
    """What a method returns.

    Attributes:
        grad: (b, c, h, w), to be descended, without a graph. It is the paper's own; its factor belongs to the loop: in
            2D the published step is plain SGD of 0.1 on 2000⟨z_trg, grad⟩/(h·w) at 64x64, z_trg ← z_trg − 0.0488 grad.
        figures: for logging only, means over the batch.
        trace: of the latents; None: the method keeps none.
    """

    grad: Tensor
    figures: dict[str, float]
    trace: GuidanceTrace | None = None


class Guidance(Protocol):
    """A method that says in which direction a latent should go (SDS, DDS, CDS, PDS, IDS)."""

    def __init__(self, cfg: Any, prior: Prior) -> None: ...

    def __call__(
        self,
        z_src: Tensor,
        z_trg: Tensor,
        source: Prompt,
        target: Prompt,
        generator: Generators,
        progress: float = 0.0,
    ) -> GuidanceOutput:
        """Return the gradient for the latents `z_trg`, beside their sources `z_src` (b, c, h, w), and figures to log.

        Args:
            source, target: b prompts each, or one for all.
            generator: where timesteps, noises and patches are drawn from; one, or one for each latent.
            progress: how much of the run is done, in [0, 1].
        """
        ...
