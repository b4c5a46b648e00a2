"""Where to compute."""

from __future__ import annotations

from typing import Literal

import torch

from ids3d.errors import UserError


def pick_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the CPU, CUDA, or for auto CUDA where there is a device. Raises UserError for CUDA where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but PyTorch finds no CUDA device: use device=cpu or device=auto")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
