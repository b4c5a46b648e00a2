"""What can be looked at of a run, and asked of it: the meeting place of a run's thread and a viewer's."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ids3d.models.renderers.protocol import Renderer
from ids3d.systems.edit_scene.changes import Value
from ids3d.systems.viewer.display import Fields

SHARE = 0.1  # of a run's time, at most, that copies of its field may take
LEAST_SECONDS = 0.5  # between two copies


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        phase: in a word or two.
        step, steps: done, and in all; 0 of 0 where there are none.
        figures: as they are logged.
        paused: it is held between two steps.
        values: of the settings that can be changed now, by key; empty: none can.
        note: what became of the last wish.
    """

    phase: str = "starting"
    step: int = 0
    steps: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    paused: bool = False
    values: Mapping[str, Value] = field(default_factory=dict)
    note: str = ""


class Stage:
    """Copies of a run's fields, its status, and the wishes of those who look on.

    A run calls `open`, `publish` and `say` on its own thread, between two steps; what is in `fields` are copies,
    that only the thread which calls `take` touches. Nothing of the run's own is rendered, changed or kept.

    Args:
        device: where the copies lie.
        is_live: whether the run is in this process, so that it can be paused and changed.
    """

    def __init__(self, device: torch.device, is_live: bool) -> None:
        self.device, self.is_live = device, is_live
        self.fields: Fields | None = None
        self.status = Status()
        self.onlookers = 0  # nothing is copied for nobody
        self._lock = threading.Lock()
        self._opened: Fields | None = None
        self._state: dict[str, Any] | None = None  # of the field that changes, for `take` to load
        self._copied, self._copying = 0.0, 0.0
        self._go_on = threading.Event()
        self._go_on.set()
        self._wishes: list[tuple[str, Value]] = []

    def open(self, source: Renderer, edited: Renderer | None) -> None:
        """Show these fields from now on."""
        fields = Fields(_copied(source), None if edited is None else _copied(edited))
        with self._lock:
            self._opened, self._state = fields, None

    def publish(self, changing: Renderer, *, at_once: bool = False) -> None:
        """Show the field that changes as it is now: if somebody looks on, and the last copy is not too recent."""
        start = time.monotonic()
        wait = max(LEAST_SECONDS, self._copying / SHARE)
        if not at_once and (self.onlookers == 0 or start - self._copied < wait or self._state is not None):
            return
        state = copy.deepcopy(changing.state_dict())
        with self._lock:
            self._state = state
        self._copied = time.monotonic()
        self._copying = self._copied - start

    def take(self) -> bool:
        """Bring `fields` up to date. Returns whether that changed them. For the thread that renders them alone."""
        with self._lock:
            opened, state = self._opened, self._state
            self._opened = self._state = None
        if opened is not None:
            self.fields = opened
        if state is not None and self.fields is not None:
            self.fields.after.load_state_dict(state)
        return opened is not None or state is not None

    def say(self, **changes: Any) -> None:
        """Change the status; the arguments are its attributes."""
        with self._lock:
            self.status = replace(self.status, **changes)

    def pause(self, paused: bool) -> None:
        """Hold the run before its next step, or let it go on."""
        if paused:
            self._go_on.clear()
        else:
            self._go_on.set()
        self.say(paused=paused)

    def hold(self, is_over: Callable[[], bool]) -> None:
        """Wait as long as the run is paused, or until it is over. For the run's thread."""
        while not self._go_on.wait(0.1):
            if is_over():
                return

    @property
    def is_paused(self) -> bool:
        return not self._go_on.is_set()

    def wish(self, key: str, value: Value) -> None:
        """Ask for a setting to be changed before the next step."""
        with self._lock:
            self._wishes.append((key, value))

    def wishes(self) -> list[tuple[str, Value]]:
        """What has been asked for since the last call, in order."""
        with self._lock:
            wishes, self._wishes = self._wishes, []
        return wishes


def _copied(renderer: Renderer) -> Renderer:
    copied = copy.deepcopy(renderer)
    groups = copied.parameter_groups()
    for parameter in (*groups.density, *groups.appearance, *groups.layout):
        parameter.grad = None
    return copied
