"""Keep work that is done: one file for each unit of work, named by all that determines it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import torch
from torch import Tensor

from ids3d.errors import UserError
from ids3d.files import atomic_write
from ids3d.images import save_image
from ids3d.reading import plain_file
from ids3d.systems.storage import fingerprint

log = logging.getLogger(__name__)


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
        found = self._read(file)
        if found is not None:
            return found
        records = [self._write_images(study, f"{key}-{i}", record) for i, record in enumerate(make())]
        # Read again, so that a study goes on from the same numbers whether it was stopped or not.
        records = json.loads(json.dumps(records))
        content = {"settings": settings, "records": records, "digest": fingerprint({"records": records})}
        text = json.dumps(content, indent=1) + "\n"
        with atomic_write(file) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
        return records

    def _read(self, file: Path) -> list[dict[str, Any]] | None:
        """Return the records of a file, None where they are to be made: none are there, or something is damaged."""
        try:
            content = json.loads(plain_file(file).read_text(encoding="utf-8"))
            records = content["records"]
            # What an earlier version has written has no digest.
            whole = content.get("digest", "") in ("", fingerprint({"records": records}))
            if not whole or not all(isinstance(record, dict) for record in records):
                raise ValueError("changed")
            for image in (v for record in records for v in record.values() if self._is_image(v, file)):
                self.read_image(image)
        except FileNotFoundError as error:
            if error.filename != str(file):
                log.warning("%s: an image is gone: made again", file)
            return None
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, UserError):
            log.warning("%s is damaged, or an image of it: made again", file)
            return None
        return records

    def _is_image(self, value: Any, file: Path) -> bool:
        """Tell whether a record's value is the path of an image that `_write_images` has written."""
        return isinstance(value, str) and value.startswith(f"{file.parent.name}/{file.stem}-")

    def read_image(self, path: str) -> Tensor:
        """Return an image (h, w, 3) in [0, 1] by the path that a record holds. Raises UserError: it is damaged."""
        try:
            return torch.from_numpy(iio.imread(plain_file(self.folder / path))).float() / 255
        except FileNotFoundError:
            raise
        except Exception as error:  # decoders raise whatever a damaged file leads them to
            raise UserError(f"{self.folder / path} cannot be read as an image: delete it") from error

    def _write_images(self, study: str, name: str, record: dict[str, Any]) -> dict[str, Any]:
        written = {}
        for key, value in record.items():
            if isinstance(value, Tensor):
                path = f"{study}/{name}-{key}.png"
                save_image(self.folder / path, value)
                value = path
            written[key] = value
        return written
