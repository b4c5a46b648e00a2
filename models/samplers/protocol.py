"""What a method that samples the edited image offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from ids3d.models.priors.protocol import Prior, Prompt

Show: TypeAlias = Callable[[Tensor, float], None]
"""Called with what the clean latents (b, c, h, w) are thought to be when a share of the work in [0, 1] is done."""


@runtime_checkable
class Sampler(Protocol):
    """A method that samples the edited image from its source, in place of following a gradient (P2P, PnP, SDEdit)."""

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
        """The edited latents of sources `z_src`, both (b, c, h, w), without a graph.

        Args:
            source, target: b prompts each, or one for all.
            generators: one for each latent, where its noise is drawn from, if there is any.
            show: called after each step.
        """
        ...
