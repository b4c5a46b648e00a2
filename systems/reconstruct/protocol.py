"""What a way to reconstruct a scene offers."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ids3d.models.renderers.protocol import Renderer
from ids3d.scene import Scene


class ReconstructionSystem(Protocol):
    """A LightningModule that fits a renderer's field to a scene's training views.

    Its Config has `validate_every` and `log_every` (steps; validate_every = 0: never).
    """

    def __init__(self, cfg: Any, renderer: Renderer, scene: Scene, seed: int) -> None: ...

    def steps(self) -> int:
        """Return how many training steps there are."""
        ...

    def batch_of_step(self, index: int) -> Any:
        """The training batch of an index: of the step, with one process; the same whenever it is asked for."""
        ...

    def configure_optimizers(self) -> Any: ...

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None: ...

    def validation_step(self, view: int, batch_idx: int) -> None: ...
