"""Randomness by name: every draw comes from a generator that the seed, a purpose and a step number determine.

A step's draws then depend on nothing that went before, so a run that was stopped and goes on draws what it would have
drawn, and what one phase draws does not depend on how much another one drew.
"""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A CPU generator for one step of one purpose ("rays", "guidance", ...).

    Example:
        >>> a, b = (torch.rand(3, generator=generator_for(0, "rays", step)) for step in (7, 7))
        >>> torch.equal(a, b)
        True
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
