"""What a run writes, whole or not at all, and how it is named."""

from __future__ import annotations

import hashlib
import json
import math
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ids3d.files import atomic_write

Figures = dict[str, float | str]
"""What metrics.json holds: flat names and numbers, and the guidance's name."""


def fingerprint(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that name the settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def memory_figures(device: torch.device) -> dict[str, float]:
    """memory/peak_gb: this process's largest resident size so far; memory/peak_cuda_gb: of tensors on the GPU."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes on Linux, bytes on macOS
    figures = {"memory/peak_gb": peak * (1 if sys.platform == "darwin" else 1024) / 1e9}
    if device.type == "cuda":
        figures["memory/peak_cuda_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return figures


def write_json(path: Path, figures: Figures) -> None:
    """Write figures by name, whole or not at all; what is undefined (nan, infinite) becomes null."""
    clean = {k: v if isinstance(v, str) or math.isfinite(v) else None for k, v in figures.items()}
    with atomic_write(path) as file:
        file.write_text(json.dumps(clean, indent=2, allow_nan=False) + "\n", encoding="utf-8")
