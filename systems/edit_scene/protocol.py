"""What a way to edit a scene offers, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ids3d.models.guidance.protocol import Guidance
from ids3d.models.priors.protocol import Prior
from ids3d.models.renderers.protocol import Renderer
from ids3d.scene import Scene
from ids3d.tracking import Tracking


@dataclass(frozen=True)
class SceneEdit:
    """What is to be edited, and by what.

    Attributes:
        scene: its training views are edited; panels are made of its held-out ones.
        source: the renderer of the unedited field. Not changed.
        prior, guidance: frozen; not part of checkpoints.
        prompts: (source, target).
        seed: with the step's number, determines all that is drawn.
        tracking: gets a panel of each held-out view at every validation; None: nobody looks on.
    """

    scene: Scene
    source: Renderer
    prior: Prior
    guidance: Guidance
    prompts: tuple[str, str]
    seed: int
    tracking: Tracking | None = None


class SceneEditingSystem(Protocol):
    """A LightningModule that edits a renderer's field in place.

    Its Config has `steps`, `validate_every` and `log_every` (steps; validate_every = 0: never).
    """

    def __init__(self, cfg: Any, renderer: Renderer, edit: SceneEdit) -> None: ...

    def batch_of_step(self, index: int) -> Any:
        """The training batch of an index: of the step, with one process; the same whenever it is asked for."""
        ...

    def configure_optimizers(self) -> Any: ...

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None: ...

    def validation_step(self, view: int, batch_idx: int) -> None: ...
