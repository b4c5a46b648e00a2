"""pycolmap, which comes with an extra: imported on demand, and kept from writing on the console."""

from __future__ import annotations

import importlib
from typing import Any

from ids3d.errors import UserError


def pycolmap() -> Any:
    """Return the module pycolmap. Raises UserError where it is not installed, or not this version's kind."""
    try:
        module = importlib.import_module("pycolmap")
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) and error.name == "pycolmap" else f" ({error})"
        raise UserError(
            f"finding cameras needs pycolmap, which is not installed{reason}: pip install -e '.[capture]'"
        ) from None
    module.logging.minloglevel = module.logging.Level.FATAL.value
    module.logging.stderrthreshold = module.logging.Level.FATAL.value
    return module
