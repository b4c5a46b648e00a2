"""Stop a run where it is safe, when the user or the scheduler asks for it."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from ids3d.errors import Interrupted


class GracefulStop:
    """Notes Ctrl-C and SIGTERM, so that the phases of a run can stop at their next safe point.

        with GracefulStop() as stop:
            for view in views:
                stop.check("nothing is lost: run it again")
                ...

    A second Ctrl-C raises KeyboardInterrupt there and then. Handlers are installed in the main thread only (Python
    allows no other), and put back at the end.

    Attributes:
        exit_code: of a stop that was asked for; 0: none was.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> GracefulStop:
        self._before = self.listen()
        return self

    @property
    def requested(self) -> bool:
        """Whether a stop was asked for."""
        return self.exit_code > 0

    def listen(self) -> dict[int, Any]:
        """Put the handlers in place, and return those that were there."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def check(self, resume_hint: str) -> None:
        """Raise Interrupted with that message if a stop was asked for."""
        if self.requested:
            raise Interrupted(resume_hint, self.exit_code)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self.exit_code = 128 + number  # as shells count
        print(
            "\nstopping at the next safe point (Ctrl-C again: at once, unsaved)", file=sys.stderr, flush=True
        )
