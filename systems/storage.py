"""What a run writes, whole or not at all, and how it is named."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import resource
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ids3d.errors import UserError
from ids3d.files import atomic_write
from ids3d.reading import plain_file

Figures = dict[str, float | str]
"""What metrics.json holds: flat names and numbers, and the guidance's name."""


class DamagedFile(UserError):
    """A file that is cut short, or holds something else. `advice`: what to do."""

    def __init__(self, path: Path, advice: str) -> None:
        super().__init__(f"{path} is damaged, or not what ids3d wrote there: {advice}")


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


def save_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state dict, or a checkpoint, whole or not at all. Raises UserError where it cannot be written."""
    with atomic_write(path) as file, file.open("wb") as opened:
        try:
            torch.save(state, opened)
        except RuntimeError as error:  # what torch makes of the OSError of a full disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_tensors(
    path: Path, keys: Collection[str], advice: str, device: torch.device | str
) -> dict[str, Any]:
    """Read what `save_tensors` has written; nothing but tensors and plain values is accepted.

    Args:
        keys: what it holds at least.
        advice: what to do if it is damaged.

    Raises DamagedFile: it is damaged, or something else; UserError: it cannot be read.
    """
    try:
        state = torch.load(plain_file(path), map_location=device, weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged or foreign file can raise anything
        raise DamagedFile(path, advice) from error
    if not isinstance(state, dict) or not set(keys) <= set(state):
        raise DamagedFile(path, advice)
    return state


def read_figures(path: Path, advice: str) -> dict[str, Any]:
    """Read what `write_json` has written. Raises DamagedFile, with the advice what to do, or UserError."""
    try:
        figures = json.loads(plain_file(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, advice) from error
    if not isinstance(figures, dict) or not all(map(_is_figure, figures.values())):
        raise DamagedFile(path, advice)
    return figures


def _is_figure(value: Any) -> bool:
    """Tell whether `write_json` writes such a value: text, null, or a finite number."""
    return value is None or isinstance(value, str) or (isinstance(value, int | float) and abs(value) < 1e300)


def write_rows(path: Path, rows: Sequence[Mapping[str, float | str | None]]) -> None:
    """Write a table as CSV, whole or not at all, with a column for each name that any row has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, figures: Figures) -> None:
    """Write figures by name, whole or not at all; what is undefined (nan, infinite) becomes null."""
    clean = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in figures.items()}
    with atomic_write(path) as file:
        file.write_text(json.dumps(clean, indent=2, allow_nan=False) + "\n", encoding="utf-8")
