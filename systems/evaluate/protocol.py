"""What an evaluation of an edited scene offers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from ids3d.models.renderers.protocol import Renderer
from ids3d.scene import Scene
from ids3d.tracking import Tracking


class EvaluationSystem(Protocol):
    """Measures and shows a field before and after an edit."""

    def __init__(
        self,
        cfg: Any,
        scene: Scene,
        target: str,
        folder: Path,
        device: torch.device,
        check: Callable[[], None],
        tracking: Tracking | None = None,
    ) -> None: ...

    def figures(self, source: Renderer, edited: Renderer, step: int) -> dict[str, float]:
        """The figures under the names of metrics.json; writes the views' images."""
        ...

    def film(self, source: Renderer, edited: Renderer, step: int) -> None:
        """Write a film of both."""
        ...
