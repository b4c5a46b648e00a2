"""pycolmap, which comes with an extra: imported on demand, and kept from writing on the console."""

from __future__ import annotations

import importlib
import signal
import threading
from typing import Any

from ids3d.errors import UserError


def pycolmap() -> Any:
    """Return the module pycolmap. Raises UserError where it is not installed, or not this version's kind."""
    # Of 4.2.1, the libraries in the wheel must not be loaded before Pillow's: what Pillow or Matplotlib then draw
    # corrupts memory.
    importlib.import_module("PIL.ImageFont")
    at_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        module = importlib.import_module("pycolmap")
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) and error.name == "pycolmap" else f" ({error})"
        raise UserError(
            f"COLMAP's models need pycolmap, which is not installed{reason}: pip install -e '.[capture]'"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, at_sigterm)  # glog would print a stack trace at it
    module.logging.minloglevel = module.logging.Level.FATAL.value
    module.logging.stderrthreshold = module.logging.Level.FATAL.value
    return module
