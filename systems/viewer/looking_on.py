"""Let a training be watched: show its field between two steps, hold it when asked to, make the changes asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from ids3d.errors import UserError
from ids3d.models.renderers.protocol import Renderer
from ids3d.systems.edit_scene.changes import Steering
from ids3d.systems.viewer.stage import Stage


class LookingOn(pl.Callback):
    """Between two steps, shows the field on a stage and does what is asked for there. Draws nothing, renders nothing.

    Args:
        stage: where it is shown.
        phase: what is done, in a word or two.
        renderer: of the field that is trained.
        is_over: whether the run is to stop: a pause ends then.
        steering: makes changes; None: nothing can be changed.
    """

    def __init__(
        self,
        stage: Stage,
        phase: str,
        renderer: Renderer,
        is_over: Callable[[], bool],
        steering: Steering | None = None,
    ) -> None:
        self.stage, self.phase, self.renderer = stage, phase, renderer
        self.is_over, self.steering = is_over, steering

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stage.say(phase=self.phase, step=trainer.global_step, steps=int(trainer.max_steps), figures={})
        self.stage.publish(self.renderer, at_once=True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.steering is not None and dict(self.stage.status.values) != self.steering.values:
            self.stage.say(values=dict(self.steering.values))
        if self.stage.is_paused:
            self.stage.publish(self.renderer, at_once=True)
            self.stage.hold(self.is_over)
        for key, value in self.stage.wishes():
            self._change(trainer, module, key, value)

    def _change(self, trainer: pl.Trainer, module: pl.LightningModule, key: str, value: Any) -> None:
        if self.steering is None or self.steering.values.get(key) == value:
            return
        try:
            change = self.steering.change(trainer, module, key, value)
        except UserError as error:
            self.stage.say(note=f"not changed: {error}", values=dict(self.steering.values))
            return
        self.stage.say(note=f"from step {change.step} on: {key} = {value}", values=dict(self.steering.values))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        figures = {}
        if self.stage.onlookers:
            figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.stage.say(step=trainer.global_step, figures=figures)
        self.stage.publish(self.renderer)

    def on_train_end(self, *_: Any) -> None:
        self.stage.publish(self.renderer, at_once=True)
        self.stage.say(values={})
