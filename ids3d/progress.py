"""Show the progress of a long phase, with rate and remaining time: a bar on a terminal, lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

QUICK = 3.0
"""Seconds within which a phase may be over without a word, where that is usual (`delay`)."""

_silenced = False


class Progress:
    """Count the steps of a phase on standard error.

    On a terminal this is tqdm's bar. Elsewhere (a log, CI) it is a plain line in the same format every `interval`
    seconds, and one at the end.

    Args:
        label: what is being done, a word or two.
        total: steps in all.
        done: steps already done (by a run that is resumed).
        unit: of a step, for the rate.
        interval: seconds between two lines where there is no terminal.
        delay: seconds in which nothing is shown: a phase that is over by then goes without a word.
    """

    def __init__(
        self,
        label: str,
        total: int,
        done: int = 0,
        unit: str = "step",
        interval: float = 15.0,
        delay: float = 0.0,
    ) -> None:
        self._label, self._total, self._initial, self._unit = label, total, done, unit
        self._interval, self._delay, self._done, self._note = interval, delay, done, ""
        self._start = self._printed = time.monotonic()
        self._bar = (
            tqdm(
                total=total,
                initial=done,
                desc=label,
                unit=unit,
                delay=delay,
                dynamic_ncols=True,
                file=sys.stderr,
            )
            if sys.stderr.isatty() and not _silenced
            else None
        )

    def advance(self, note: str = "") -> None:
        """Count one step more, and show `note` after the rate."""
        self._done += 1
        self._note = note or self._note
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update()
        elif time.monotonic() - self._printed >= self._interval:
            self._print()

    def close(self) -> None:
        """End the bar, or print the last line."""
        if self._bar is not None:
            self._bar.close()
        elif time.monotonic() - self._start >= self._delay:
            self._print()

    def _print(self) -> None:
        if _silenced:
            return
        self._printed = time.monotonic()
        line = tqdm.format_meter(
            self._done,
            self._total,
            self._printed - self._start,
            prefix=self._label,
            unit=self._unit,
            initial=self._initial,
            postfix=self._note or None,
            bar_format="{desc}: {n_fmt}/{total_fmt} [{elapsed} so far, {remaining} left, {rate_fmt}{postfix}]",
        )
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Within the context, no progress is shown in this process (`--quiet`)."""
    global _silenced
    before, _silenced = _silenced, True
    try:
        yield
    finally:
        _silenced = before


def track(
    items: Iterable[T], label: str, total: int | None = None, unit: str = "view", delay: float = 0.0
) -> Iterator[T]:
    """Yield the items, counted by a `Progress`. Raises ValueError without a `total` where `items` has no length."""
    if total is None:
        if not isinstance(items, Sized):
            raise ValueError("track() needs a total for items without a length")
        total = len(items)
    progress = Progress(label, total, unit=unit, delay=delay)
    try:
        for item in items:
            yield item
            progress.advance()
    finally:
        progress.close()
