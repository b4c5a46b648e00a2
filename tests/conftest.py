"""What all tests share: hypothesis draws the same examples in every run, so that no failure is a matter of luck."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

from ids3d import progress

settings.register_profile("same-every-time", derandomize=True)
settings.load_profile("same-every-time")


@pytest.fixture(autouse=True)
def _what_a_command_says_is_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that runs a command, which sets how much is said, does not set it for the next one."""
    monkeypatch.setattr(progress, "_silenced", False)
    root, ours = logging.getLogger(), logging.getLogger("ids3d")
    levels = root.level, ours.level
    yield
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
