"""What this machine's memory can hold."""

from __future__ import annotations

import os


def lack_of_memory(size: float) -> str:
    """Return '' if `size` bytes are less than this machine's memory, else a few words on how much they are."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return "" if size < total else f"needs {size / 1e9:.3g} GB of memory; this machine has {total / 1e9:.3g}"
