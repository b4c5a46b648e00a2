"""What exports are made from, and the settings that all of them have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ids3d.device import DEVICE
from ids3d.models.renderers.protocol import Renderer
from ids3d.scene import Scene

FieldName = Literal["edited", "source"]
Units = Literal["scene", "files"]


def _go_on() -> None:
    """Nobody asks to stop."""


@dataclass(frozen=True)
class RunFields:
    """A run's fields.

    Attributes:
        scene: as it was captured.
        source: the field before the edit.
        edited: the field after it; None: there is none, or it is not asked for.
        device: where they are.
        check: called every now and then; may raise to stop.
    """

    scene: Scene
    source: Renderer
    edited: Renderer | None
    device: torch.device
    check: Callable[[], None] = _go_on

    @property
    def after(self) -> Renderer:
        """The edited field, the source where there is none."""
        return self.edited or self.source

    def in_units(self, points: Tensor, units: Units) -> Tensor:
        """Points (..., 3) of the scene in these units (and axes), float64."""
        return points.double() if units == "scene" else self.scene.to_scene.undo(points.double())


@dataclass(frozen=True)
class ExportSettings:
    """What all exports let one choose."""

    # Which field; null: edited, of a run that stopped before the edit the source.
    field: FieldName | None = None
    device: str | None = None  # where it is computed: cpu, cuda, cuda:1, auto; null: as the run's config says

    def __post_init__(self) -> None:
        if self.device is not None and not DEVICE.fullmatch(self.device):
            raise ValueError(f"device {self.device!r}: expected auto, cpu, cuda or, of several, cuda:N")
