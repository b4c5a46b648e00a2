"""The order of an edit through pictures: in each round batches of views are edited, then the field is fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


class GuidanceStep(NamedTuple):
    """A step of the guidance on the latents of some views; of a sampler, all its steps.

    Attributes:
        round: from 0.
        views: which training views; none, where other processes have the last ones.
        number: of the step, from 0 in each round.
    """

    round: int
    views: tuple[int, ...]
    number: int


class FitStep(NamedTuple):
    """A step of fitting the field to the edited images; `number` from 0 in each round."""

    round: int
    number: int


@dataclass(frozen=True)
class Rounds:
    """So many rounds, all alike.

    Attributes:
        count: how many.
        batches: of the training views, those edited at once.
        guidance_steps: on each view in a round.
        fit_steps: of the field in a round.
        processes: each edits other batches, and all fit, with rays of their own.
    """

    count: int
    batches: tuple[tuple[int, ...], ...]
    guidance_steps: int
    fit_steps: int
    processes: int = 1

    @property
    def turns(self) -> int:
        """How often a batch of views is edited in a round: by each process another one."""
        return math.ceil(len(self.batches) / self.processes)

    @property
    def steps(self) -> int:
        """Of all rounds, for each process."""
        return self.count * self._steps_per_round

    @property
    def _steps_per_round(self) -> int:
        return self.turns * self.guidance_steps + self.fit_steps

    def step(self, index: int) -> GuidanceStep | FitStep:
        """What is done in a step; the processes' steps are counted together, in turn."""
        overall, process = divmod(index, self.processes)
        number, i = divmod(overall, self._steps_per_round)
        turn, step = divmod(i, self.guidance_steps)
        if turn < self.turns:
            mine = turn * self.processes + process
            return GuidanceStep(number, self.batches[mine] if mine < len(self.batches) else (), step)
        return FitStep(number, i - self.turns * self.guidance_steps)
