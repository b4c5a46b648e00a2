"""A tracker that remembers what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ids3d.tracking import Curve, Row, Tracker


class Remembering(Tracker):
    """To be put in W&B's place."""

    label = "Remembering"

    def __init__(self) -> None:
        self.panels: list[tuple[str, int]] = []
        self.curves: list[Curve] = []
        self.tables: dict[str, Sequence[Row]] = {}
        self.summaries: dict[str, float | str] = {}
        self.kept: list[str] = []

    def panel(self, name: str, image: Tensor, step: int) -> None:
        assert image.shape[0] >= 192 and image.shape[2] == 3  # large enough to be looked at
        self.panels.append((name, step))

    def curve(self, curve: Curve) -> None:
        self.curves.append(curve)

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        self.tables[name] = rows

    def summary(self, figures: Mapping[str, float | str], step: int) -> None:
        self.summaries |= figures

    def keep(self, name: str, kind: str, file: Path) -> None:
        assert file.exists()
        self.kept.append(name)
