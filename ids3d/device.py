"""Where to compute."""

from __future__ import annotations

import re

import torch

from ids3d.errors import UserError

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
"""What a device is called: auto is CUDA where there is a device, cuda:1 the second one."""


def pick_device(name: str) -> torch.device:
    """Return the device of a name that fits DEVICE. Raises UserError for others, and for CUDA where there is none."""
    if not DEVICE.fullmatch(name):
        raise UserError(f"device={name}: expected auto, cpu, cuda or, of several, cuda:N, from cuda:0 on")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise UserError(f"device={name}, but PyTorch finds no CUDA device: use device=cpu or device=auto")
        if (device.index or 0) >= count:
            raise UserError(f"device={name}, but the CUDA devices are cuda:0 to cuda:{count - 1}")
    return device
