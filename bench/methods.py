"""The editing methods that studies compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ids3d.config import parse
from ids3d.models.priors.protocol import Prior
from ids3d.registry import find_among

DISPLAY_NAMES = {name: name.upper() for name in ("sds", "dds", "cds", "pds", "ids", "p2p")} | {
    "pnp": "PnP",
    "sdedit": "SDEdit",
}
IMAGE_METHODS = tuple(DISPLAY_NAMES)
SCENE_METHODS = ("sds", "dds", "cds", "pds", "ids")


@dataclass(frozen=True)
class Method:
    """A guidance or sampler, with the loop that a guidance is run in.

    Attributes:
        name: in a config.
        settings: those that differ from the defaults of its Config.
        steps, lr: of the loop; a sampler has its own steps.
        label: what reports call it, if not by its name.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 200
    lr: float = 0.0488
    label: str = ""

    @property
    def display_name(self) -> str:
        """What reports call it."""
        return self.label or DISPLAY_NAMES.get(self.name, self.name)

    @property
    def identity(self) -> dict[str, Any]:
        """What determines its results, as JSON values."""
        return {"name": self.name, "settings": dict(self.settings), "steps": self.steps, "lr": self.lr}

    def build(self, prior: Prior) -> Any:
        """Return the guidance or sampler on a prior. Raises UserError for an unknown name or setting."""
        _, cls = find_among(("guidance", "sampler"), self.name)
        return cls(parse(cls.Config, dict(self.settings), f"guidance ({self.name})"), prior)


def is_sampler(name: str) -> bool:
    """Return whether a method samples the edited image, in place of following a gradient. Raises UserError."""
    return find_among(("guidance", "sampler"), name)[0] == "sampler"
