"""What a training of one of the bundled prior's models offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor


class TrainingSystem(Protocol):
    """A LightningModule; its Config is a TrainingConfig."""

    def __init__(self, cfg: Any, seed: int, show: Callable[[Tensor, int], None]) -> None: ...

    def configure_optimizers(self) -> Any: ...

    def training_step(self, step: int) -> Tensor: ...

    def save(self) -> None:
        """Save the trained model into the folder that its settings say."""
        ...
