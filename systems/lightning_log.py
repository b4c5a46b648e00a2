"""What Lightning logs, handed to the run's tracking."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from ids3d.tracking import Tracking


class TrackingLogger(Logger):
    """Lightning's logger that logs to a run's `Tracking`; there are no epochs here, so theirs is left out."""

    def __init__(self, tracking: Tracking) -> None:
        super().__init__()
        self.tracking = tracking

    @property
    def name(self) -> str:
        return "ids3d"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: the run's config is with its tracking."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.tracking.log_figures({k: v for k, v in metrics.items() if k != "epoch"}, step or 0)
