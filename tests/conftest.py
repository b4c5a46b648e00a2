"""What all tests share: hypothesis draws the same examples in every run, so that no failure is a matter of luck."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("same-every-time", derandomize=True)
settings.load_profile("same-every-time")
