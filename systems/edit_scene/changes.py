"""Settings that are changed while an edit runs, and the record from which it can be repeated."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytorch_lightning as pl

from ids3d.errors import UserError
from ids3d.experiment import SceneJob
from ids3d.files import cannot_write
from ids3d.models.guidance.distillation import Distillation
from ids3d.models.guidance.protocol import Guidance, GuidanceConfig
from ids3d.models.samplers.ddim_sampler import DDIMSampler, SamplerConfig
from ids3d.models.samplers.protocol import Sampler
from ids3d.reading import plain_file
from ids3d.systems.edit_scene.editing import EditingSystem
from ids3d.systems.edit_scene.protocol import EditConfig

TARGET, SCALE, REGION = "prompt.target", "guidance.guidance_scale", "edit.region"
LONGEST_TEXT = 2000

Value: TypeAlias = str | float


@dataclass(frozen=True)
class Change:
    """A setting that has another value from a step on.

    Attributes:
        step: before which it is made, counted from 0.
        key: TARGET, SCALE or REGION.
        value: text; of SCALE, a number.

    Raises ValueError where these do not hold.
    """

    step: int
    key: str
    value: Value

    def __post_init__(self) -> None:
        if isinstance(self.step, bool) or not isinstance(self.step, int) or self.step < 0:
            raise ValueError(f"step {self.step!r}: expected a whole number")
        if self.key == SCALE:
            if isinstance(self.value, bool) or not isinstance(self.value, int | float):
                raise ValueError(f"{self.key}={self.value!r}: expected a number")
            if not (math.isfinite(self.value) and 0 <= self.value <= 1e4):
                raise ValueError(f"{self.key}={self.value} is not in [0, 1e4]")
        elif self.key in (TARGET, REGION):
            if not isinstance(self.value, str) or not self.value.strip():
                raise ValueError(f"{self.key} is empty")
            if len(self.value) > LONGEST_TEXT:
                raise ValueError(f"{self.key} has {len(self.value)} characters: at most {LONGEST_TEXT}")
            self.value.encode()  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
        else:
            raise ValueError(f"{self.key}: only {TARGET}, {SCALE} and {REGION} can be changed in a run")


class ChangeRecord:
    """`changes.jsonl` in a run's folder: a change a line, in the order in which they were made.

    An edit whose folder has one makes the same changes before the same steps: when it is resumed, and when it is begun.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "changes.jsonl"

    def read(self) -> list[Change]:
        """All changes. Raises UserError: a line is damaged; a last one that was cut short was never acted on."""
        if not self.path.exists():
            return []
        changes: list[Change] = []
        try:
            lines = plain_file(self.path).read_text(encoding="utf-8").split("\n")
            for line in lines[:-1]:
                changes.append(Change(**json.loads(line)))
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror or error})") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.path}, line {len(changes) + 1}, is no change of a setting ({error}): mend that line, or delete "
                "the file to edit without changes"
            ) from error
        return changes

    def append(self, change: Change) -> None:
        """Add a change. Raises UserError: it cannot be written."""
        line = json.dumps(asdict(change), ensure_ascii=False) + "\n"
        try:
            with self.path.open("a+b") as file:
                file.seek(0)
                whole = file.read().rpartition(b"\n")[0]
                file.truncate(len(whole) + 1 if whole else 0)
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def target(self, steps: int, otherwise: str) -> str:
        """The target prompt at the end of an edit of so many steps; `otherwise` where it was not changed."""
        targets = [str(c.value) for c in self.read() if c.key == TARGET and c.step < steps]
        return targets[-1] if targets else otherwise


def changeable(job: SceneJob, prompts: tuple[str, str]) -> dict[str, Value]:
    """The settings of an edit that can be changed while it runs, as they are at its start, by key."""
    guidance, edit = job.guidance.settings(), job.edit.settings()
    values: dict[str, Value] = {}
    if isinstance(edit, EditConfig):
        values |= {TARGET: prompts[1], REGION: edit.region}
    if isinstance(guidance, GuidanceConfig | SamplerConfig):
        values[SCALE] = guidance.guidance_scale
    return values


class Steering(pl.Callback):
    """Makes an edit's recorded changes before their steps, and new ones when asked to.

    Args:
        record: of the run.
        method: of the edit; ω is changed in its settings.
        initial: the values at the start, by key.
    """

    def __init__(
        self, record: ChangeRecord, method: Guidance | Sampler, initial: Mapping[str, Value]
    ) -> None:
        self.record, self.method, self.values = record, method, dict(initial)
        self._due: list[Change] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._due = sorted(self.record.read(), key=lambda change: change.step)  # stable: as they were made

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        while self._due and self._due[0].step <= trainer.global_step:
            change = self._due.pop(0)
            try:
                self._prepared(module, change)()
            except UserError as error:
                raise UserError(f"{self.record.path}: {error}") from error
            self.values[change.key] = change.value

    def change(self, trainer: pl.Trainer, module: pl.LightningModule, key: str, value: Value) -> Change:
        """Record and make a change before the step that is about to begin.

        Raises UserError: it cannot be made, or not be recorded; all is as before.
        """
        try:
            change = Change(trainer.global_step, key, value)
        except ValueError as error:
            raise UserError(str(error)) from error
        make = self._prepared(module, change)
        self.record.append(change)
        make()
        self.values[key] = value
        return change

    def _prepared(self, module: pl.LightningModule, change: Change) -> Callable[[], None]:
        """All that can fail of a change; what is returned makes it. Raises UserError."""
        if change.key == SCALE:
            method = self.method
            if not isinstance(method, Distillation | DDIMSampler):
                raise UserError(f"{change.key} cannot be changed: this guidance does not say how")
            return lambda: setattr(method.cfg, "guidance_scale", float(change.value))
        if not isinstance(module, EditingSystem):
            raise UserError(f"{change.key} cannot be changed: this way to edit does not say how")
        if change.key == TARGET:
            return module.prepared_target(str(change.value))
        return module.prepared_region(str(change.value))
