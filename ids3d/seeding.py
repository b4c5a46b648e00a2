"""Random generators by purpose: the seed, a purpose and a step number determine every draw.

A step's draws depend on nothing that went before. A resumed run thus draws what the whole run would have drawn, and one
phase's draws do not depend on how much another one drew.
"""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """Return a CPU generator for one step of one purpose ("rays", "guidance", ...).

    Example:
        >>> a, b = (torch.rand(3, generator=generator_for(0, "rays", step)) for step in (7, 7))
        >>> torch.equal(a, b)
        True
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
