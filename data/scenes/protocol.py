"""What a format of captured scenes offers."""

from __future__ import annotations

from typing import Any, Protocol

from ids3d.scene import Scene


class SceneFormat(Protocol):
    """A reader of scenes in one layout on the disk."""

    def __init__(self, cfg: Any) -> None: ...

    def load(self) -> Scene:
        """Read the scene and say in one line what was found. Raises UserError for what is wrong with the files."""
        ...
