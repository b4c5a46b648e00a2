"""What the phases of a run come to, counted beforehand: what an estimate of its time multiplies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

PASSES = 2
"""Predictions of a sampler for each of its steps, there and back."""


@dataclass(frozen=True)
class Work:
    """What a phase does from its start to its end, in one process.

    Attributes:
        how: in words, for who starts the run.
        guided: steps of a guidance, or a sampler's predictions of the noise, counted for each latent.
        batch: latents that are edited at once.
        coded: images that go through the prior's encoder or decoder.
        trained_rays: rays that are rendered and differentiated; so many at once.
        rendered_rays: rays that are rendered only.
        uncounted: what else it does, a few words each.
    """

    how: str
    guided: int = 0
    batch: int = 1
    coded: int = 0
    trained_rays: int = 0
    rays_at_once: int = 2048
    rendered_rays: int = 0
    uncounted: tuple[str, ...] = ()


@runtime_checkable
class CountsWork(Protocol):
    """A system that says what it is about to do. One that does not has a time that is not known beforehand."""

    def work(self) -> Work:
        """Count what the whole phase does."""
        ...
