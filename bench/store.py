"""Keep work that is done: one file for each unit of work, named by all that determines it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import torch
from torch import Tensor

from ids3d.errors import UserError
from ids3d.files import atomic_write
from ids3d.images import save_image
from ids3d.systems.storage import fingerprint


class Store:
    """Results in a folder: `<folder>/<study>/<key>.json` and their images beside it.

    A study that was killed finds what it had finished and does the rest. The key is a digest of a unit's settings, so
    that what was made with others is not taken for it.

    Args:
        folder: made if it is not there. Raises UserError where that fails.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {folder}: {error.strerror}") from error

    def get(
        self, study: str, settings: Mapping[str, Any], make: Callable[[], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Return the records of a unit of work: read them if they are there, make and write them otherwise.

        Args:
            study: the folder that they are kept in.
            settings: all that determines them, as JSON values.
            make: makes them. A record holds JSON values and images, Tensors (h, w, 3) in [0, 1]: each is written as a
                PNG and replaced by its path within the store.
        """
        key = fingerprint(settings)
        file = self.folder / study / f"{key}.json"
        if not file.exists():
            records = [self._write_images(study, f"{key}-{i}", record) for i, record in enumerate(make())]
            content = {"settings": settings, "records": records}
            text = json.dumps(content, indent=1) + "\n"
            with atomic_write(file) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
        # Read again even if just made, so that a study goes on from the same numbers whether it was stopped or not.
        loaded: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["records"]
        return loaded

    def read_image(self, path: str) -> Tensor:
        """Return an image (h, w, 3) in [0, 1] by the path that a record holds."""
        return torch.from_numpy(iio.imread(self.folder / path)).float() / 255

    def _write_images(self, study: str, name: str, record: dict[str, Any]) -> dict[str, Any]:
        written = {}
        for key, value in record.items():
            if isinstance(value, Tensor):
                path = f"{study}/{name}-{key}.png"
                save_image(self.folder / path, value)
                value = path
            written[key] = value
        return written
