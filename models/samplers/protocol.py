"""What a sampler offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from ids3d.models.priors.protocol import Prior, Prompt

Show: TypeAlias = Callable[[Tensor, float], None]
"""Called with the estimate of the clean latents (b, c, h, w), and how much of the work is done, in (0, 1]."""


@runtime_checkable
class Sampler(Protocol):
    """A method that samples the edited image, where a guidance follows a gradient (P2P, PnP, SDEdit)."""

    cfg: Any
    """Its settings, `steps` among them."""

    def __init__(self, cfg: Any, prior: Prior) -> None: ...

    def edit(
        self,
        z_src: Tensor,
        source: Prompt,
        target: Prompt,
        generators: Sequence[torch.Generator],
        show: Show | None = None,
    ) -> Tensor:
        """Return the edited latents of sources `z_src`, both (b, c, h, w), without a graph.

        Args:
            source, target: b prompts each, or one for all.
            generators: one for each latent; a sampler that draws noise draws it from there.
            show: called after each step.
        """
        ...
