"""Which views are held out."""

from __future__ import annotations

import torch
from torch import Tensor


def every_nth(n: int, step: int) -> Tensor:
    """(n,) bool: views 0, step, 2 step, ... are held out (Mildenhall et al. 2019)."""
    return torch.arange(n) % step == 0


def evenly(n: int, limit: int) -> list[int]:
    """At most `limit` of n views, spread evenly over them, the first one among them; 0: all."""
    count = min(limit, n) if limit else n
    return [i * n // count for i in range(count)]
