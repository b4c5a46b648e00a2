"""What a source of images to edit offers."""

from __future__ import annotations

from typing import Any, Protocol

from ids3d.tasks import EditTask


class ImageSource(Protocol):
    """Images to edit, with what is known of each: prompts, and the true edit."""

    def __init__(self, cfg: Any) -> None: ...

    def tasks(self, size: int) -> list[EditTask]:
        """The images, none read yet; those that are made are made with sides of `size` pixels. Raises UserError."""
        ...
