"""What a guidance method offers, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from ids3d.models.priors.protocol import Prior, Prompt

Generators: TypeAlias = torch.Generator | Sequence[torch.Generator]
"""What a method draws from: one generator for all latents of a batch in turn, or one for each, so that what a latent
gets does not depend on what else is in its batch."""


@dataclass(frozen=True)
class GuidanceOutput:
    """What a method returns.

    Attributes:
        grad: (b, c, h, w), to be descended, without a graph. It is the paper's own; its factor belongs to the loop: in
            2D the published step is plain SGD of 0.1 on 2000⟨z_trg, grad⟩/(h·w) at 64x64, z_trg ← z_trg − 0.0488 grad.
        figures: for logging only, means over the batch.
    """

    grad: Tensor
    figures: dict[str, float]


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
