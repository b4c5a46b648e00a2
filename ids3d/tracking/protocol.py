"""What a place to log to offers, and what is logged besides figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

PROMPT_SHOWN = 48
"""Characters of a prompt that the name of a group shows."""


@dataclass(frozen=True)
class Subject:
    """What a run is about.

    Attributes:
        scene: its name; empty: the job's.
        prompts: (source, target) as they are used, wherever they come from; None: there is no such pair.
    """

    scene: str = ""
    prompts: tuple[str, str] | None = None

    def group(self, default: str) -> str:
        """A name that all runs with this scene and these prompts have in common."""
        parts = [self.scene or default]
        if self.prompts is not None:
            parts.append(" → ".join(_shortened(text) for text in self.prompts))
        return ": ".join(parts)


def _shortened(text: str) -> str:
    return text if len(text) <= PROMPT_SHOWN else f"{text[: PROMPT_SHOWN - 1]}…"


@dataclass(frozen=True)
class Curve:
    """Figures along an axis that is not the run's steps.

    Attributes:
        name: of the figure, such as guidance/grad_rms.
        axis: what x is, such as guidance/timestep.
        points: (x, y), x rising.
    """

    name: str
    axis: str
    points: tuple[tuple[float, float], ...]

    @property
    def title(self) -> str:
        """One name for both."""
        return f"{self.name}_by_{self.axis.rpartition('/')[2]}"


@dataclass(frozen=True)
class Row:
    """A view, or an edited image, in a table: its pictures (h, w, 3) in [0, 1], and figures or words; by columns."""

    name: str
    images: Mapping[str, Tensor]
    cells: Mapping[str, float | str]


class Tracker(Protocol):
    """A place to log to. What one does not override, it leaves out.

    Any method may raise anything: `Tracking` then says so once, and goes on without this tracker.

    Attributes:
        label: what a message calls it.
    """

    label: str

    def begin(self, phase: str, step: int) -> None:
        """What comes is of a phase that stands at a step; what is there of its later steps is done again."""
        return

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """Log figures of a step of the phase."""
        return

    def panel(self, name: str, image: Tensor, step: int) -> None:
        """Log a picture (h, w, 3) in [0, 1]."""
        return

    def video(self, name: str, file: Path, step: int) -> None:
        """Log a film (.mp4)."""
        return

    def curve(self, curve: Curve) -> None:
        """Log a curve; it is logged once."""
        return

    def table(self, name: str, rows: Sequence[Row], step: int) -> None:
        """Log a table; it is logged once."""
        return

    def summary(self, figures: Mapping[str, float | str], step: int) -> None:
        """Log what came out, and keep it where a run's results are compared."""
        return

    def keep(self, name: str, kind: str, file: Path) -> None:
        """Keep a file that the run has made."""
        return

    def flush(self) -> None:
        """Write what has been logged so far: it is to survive a kill."""
        return

    def close(self) -> None:
        """Write what is left, and end."""
        return

    def abandon(self) -> None:
        """It has failed: let go of all that it holds, so that nothing waits for it when the process ends."""
        return
