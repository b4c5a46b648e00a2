"""What the guidance did in an edit, over axes of its own: its gradient by timestep, its residual by iteration."""

from __future__ import annotations

from collections.abc import Iterable

from ids3d.models.guidance.protocol import GuidanceTrace
from ids3d.tracking import Curve

BIN = 50
"""Timesteps that are averaged over."""


class GuidanceCurves:
    """Means over all latents and steps of an edit so far.

    Args:
        state: of the curves that are gone on with, from `state`.
    """

    def __init__(self, state: Iterable[tuple[str, int, float, int]] = ()) -> None:
        self._sums = {(name, x): (total, count) for name, x, total, count in state}

    def state(self) -> list[tuple[str, int, float, int]]:
        """Plain values for a checkpoint."""
        return [(name, x, *sums) for (name, x), sums in self._sums.items()]

    def add(self, trace: GuidanceTrace | None) -> None:
        """Take in a step of the guidance; None: the method keeps no trace."""
        if trace is None:
            return
        bins = (trace.t // BIN * BIN + BIN // 2).tolist()
        for t, rms in zip(bins, trace.grad_rms.tolist(), strict=True):
            self._add("guidance/grad_rms", t, rms)
        if trace.residuals is not None:
            for residuals in trace.residuals.tolist():
                for iteration, residual in enumerate(residuals):
                    self._add("guidance/residual", iteration, residual)

    def _add(self, name: str, x: int, value: float) -> None:
        total, count = self._sums.get((name, x), (0.0, 0))
        self._sums[name, x] = (total + value, count + 1)

    def curves(self) -> list[Curve]:
        """The gradient's root mean square by timestep, and the residual by iteration; those that there are."""
        axes = {"guidance/grad_rms": "guidance/timestep", "guidance/residual": "guidance/iteration"}
        found = []
        for name, axis in axes.items():
            points = sorted((x, total / n) for (of, x), (total, n) in self._sums.items() if of == name)
            if points:
                found.append(Curve(name, axis, tuple(points)))
        return found
