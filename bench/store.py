"""Work that is done is kept: one file for each unit of work, named by all that determines it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ids3d.errors import UserError
from ids3d.files import atomic_write
from ids3d.images import save_image
from ids3d.systems.storage import fingerprint


class Store:
    """Results under a folder, whole or not there: `<folder>/<study>/<key>.json`, and their pictures beside them.

    A study that was killed finds what it had finished and does the rest. A unit is named by a digest of its settings,
    so that what was made with others is not taken for it.
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
        """The records of a unit of work: read if they are there, made and written otherwise.

        Args:
            study: the folder they are kept in.
            settings: all that determines them; JSON values.
            make: makes them. A record holds JSON values; a picture's Tensor (h, w, 3) is written as a PNG and replaced
                by its path within the store.
        """
        key = fingerprint(settings)
        file = self.folder / study / f"{key}.json"
        if not file.exists():
            records = [self._write_pictures(study, f"{key}-{i}", r) for i, r in enumerate(make())]
            content = {"settings": settings, "records": records}
            text = json.dumps(content, indent=1) + "\n"
            with atomic_write(file) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
        # Also what was just made is read: a study goes on from the same numbers, whether it was interrupted or not.
        loaded: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["records"]
        return loaded

    def picture(self, path: str) -> Tensor:
        """A picture (h, w, 3) in [0, 1] that a record names."""
        import imageio.v3 as iio

        return torch.from_numpy(iio.imread(self.folder / path)).float() / 255

    def _write_pictures(self, study: str, name: str, record: dict[str, Any]) -> dict[str, Any]:
        written = {}
        for key, value in record.items():
            if isinstance(value, Tensor):
                path = f"{study}/{name}-{key}.png"
                save_image(self.folder / path, value)
                value = path
            written[key] = value
        return written
