"""What a way to edit a scene offers, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from ids3d.config.bounds import STEPS, STEPS_OR_NONE, check_bounds
from ids3d.models.guidance.protocol import Guidance
from ids3d.models.priors.protocol import Prior
from ids3d.models.renderers.protocol import Renderer
from ids3d.models.samplers.protocol import Sampler
from ids3d.scene import Scene
from ids3d.systems.divergence import Watch
from ids3d.tracking import Tracking


@dataclass
class EditConfig:
    """The settings that all ways to edit a scene share, and keep when one is exchanged for another."""

    # The step of the latent, per element of the guidance's gradient: the published 2D step, 0.1 * 2000 / (64 * 64).
    lr: float = 0.0488
    appearance_only: bool = False  # the density stays as it was reconstructed
    # What of a view is edited: the unedited field's render, or the photograph.
    source: Literal["render", "photo"] = "render"
    # Where the edit may act: everywhere; difference: where the prompts make a difference, found by itself (DiffEdit);
    # or a folder of masks, one image a training view, of its name, white where it may.
    region: str = "everywhere"
    validate_every: int = 50  # steps between two looks at held-out views; 0 = never
    log_every: int = 10  # steps between two that are logged

    def __post_init__(self) -> None:
        check_bounds(self, lr="(0, 1000]", log_every=STEPS, validate_every=STEPS_OR_NONE)

    def is_more_than(self, earlier: EditConfig) -> bool:
        """Whether these say the same as earlier ones, but for more steps, that go on from where those end."""
        return False


@dataclass(frozen=True)
class SceneEdit:
    """What is to be edited, and by what.

    Attributes:
        scene: its training views are edited; panels are made of its held-out ones.
        source: the renderer of the unedited field. Not changed.
        prior, method: frozen; not part of checkpoints.
        prompts: (source, target).
        seed: with the step's number, determines all that is drawn.
        tracking: gets a panel of each held-out view at every validation; None: nobody looks on.
        processes: how many share the work.
        watch: is shown what comes from the prior, view by view; what is not finite is left out.
    """

    scene: Scene
    source: Renderer
    prior: Prior
    method: Guidance | Sampler
    prompts: tuple[str, str]
    seed: int
    tracking: Tracking | None = None
    processes: int = 1
    watch: Watch = field(default_factory=Watch)


class SceneEditingSystem(Protocol):
    """A LightningModule that edits a renderer's field in place.

    Attributes:
        samplers: whether it can edit by a sampler too, which gives no gradient.

    Its Config has `validate_every` and `log_every` (steps; validate_every = 0: never).
    """

    samplers: ClassVar[bool]

    def __init__(self, cfg: Any, renderer: Renderer, edit: SceneEdit) -> None: ...

    def steps(self) -> int:
        """Return how many training steps there are."""
        ...

    def batch_of_step(self, index: int) -> Any:
        """The training batch of an index: of the step, with one process; the same whenever it is asked for."""
        ...

    def configure_optimizers(self) -> Any: ...

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None: ...

    def validation_step(self, view: int, batch_idx: int) -> None: ...
