"""What a way to edit images offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from ids3d.models.guidance.protocol import Guidance
from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.models.samplers.protocol import Sampler

Show: TypeAlias = Callable[[Tensor, float, dict[str, float]], None]
"""Called with the latents (b, c, h, w), the share of the work in [0, 1] that is done, and the method's figures."""


@dataclass(frozen=True)
class EditedLatents:
    """A batch of images after its edit.

    Attributes:
        latents: (b, c, h, w).
        skipped: of each image, the steps that were left out because they were not finite.
        given_up: of each image, whether its numbers did not stay finite, so that it is not edited to the end.
    """

    latents: Tensor
    skipped: list[int]
    given_up: list[bool]


class ImageEditingSystem(Protocol):
    """Edits batches of images of one size, each as it would be edited alone."""

    def __init__(self, cfg: Any, prior: Prior, method: Guidance | Sampler, seed: int) -> None: ...

    def edit(
        self,
        images: Tensor,
        source: Prompt,
        target: Prompt,
        names: Sequence[str],
        show: Show | None = None,
    ) -> EditedLatents:
        """The edited latents (b, c, h, w) of images (b, 3, H, W) in [0, 1].

        Args:
            source, target: b prompts each.
            names: the images', from which their draws come.
            show: called after each step.
        """
        ...
