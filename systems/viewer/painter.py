"""Draw pictures for all who look on: coarse while a camera moves, refined when it rests."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from ids3d.cameras import Cameras
from ids3d.images import to_bytes
from ids3d.models.renderers.protocol import Render, Renderer
from ids3d.systems.viewer.display import Display, Fields, Outdated, Pace, Viewpoint, draw, rows

MOVING_SECONDS = 0.2  # for a picture while the camera moves
RESTING_SECONDS = 0.8  # for one of a scene that has changed under a camera at rest
REST = 0.3  # seconds without a move after which a camera rests
BAND_SECONDS = 0.1  # after which a picture that is refined can be given up
READY_ROWS = 8  # of the picture that nobody sees
FINER = 2.0  # how much higher than the last one a refined picture is


@dataclass
class Onlooker:
    """Somebody who looks at the scene.

    Attributes:
        show: shows a picture (h, w, 3), uint8.
        display: what is looked at.
        viewpoint: from where; None: not known yet.
        finest: the greatest height of a picture, pixels.
        drawn: the height of the picture that is shown, 0 where it is of something else.
        moved: when the viewpoint or the display last changed.
    """

    show: Callable[[np.ndarray], None]
    display: Display = field(default_factory=Display)
    viewpoint: Viewpoint | None = None
    finest: int = 480
    drawn: int = 0
    moved: float = 0.0
    scene_changed: bool = False

    def look(self, viewpoint: Viewpoint | None = None, display: Display | None = None) -> None:
        """Look from elsewhere, or at something else."""
        self.viewpoint = viewpoint or self.viewpoint
        self.display = display or self.display
        self.moved, self.drawn = time.monotonic(), 0

    @property
    def limit(self) -> int:
        """The height of the finest picture in its window."""
        assert self.viewpoint is not None
        return max(16, min(self.finest, self.viewpoint.height))

    @property
    def is_due(self) -> bool:
        """Whether what is shown is of something else."""
        return self.viewpoint is not None and self.drawn == 0

    def can_refine(self, now: float) -> bool:
        """Whether a finer picture than the one shown is possible, and the camera rests."""
        return self.viewpoint is not None and 0 < self.drawn < self.limit and now - self.moved > REST


class Painter:
    """Draws for all onlookers in turn, on one thread; those who move come first.

    Rendering never draws random numbers, keeps no graph, and is of fields that nobody else touches.

    Args:
        device: the fields'.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.pace, self._turn, self._is_ready = device, Pace(), 0, False

    @torch.no_grad()
    def get_ready(self, fields: Fields, viewpoint: Viewpoint) -> None:
        """Render a very small picture once, for nobody: what loads at a renderer's first use is no one's wait then."""
        if not self._is_ready:
            fields.source.render(viewpoint.camera(READY_ROWS).to(self.device))
            self._is_ready = True

    def paint(self, fields: Fields, onlookers: list[Onlooker], go_on: Callable[[], bool]) -> bool:
        """Draw at most one picture. Returns whether there was one to draw.

        Args:
            go_on: whether a picture that is being refined is still wanted.
        """
        due = [o for o in onlookers if o.is_due]
        if due:
            self._turn += 1
            first = due[self._turn % len(due)]
            resting = first.scene_changed and time.monotonic() - first.moved > REST
            first.scene_changed = False
            self._draw(first, fields, RESTING_SECONDS if resting else MOVING_SECONDS, None)
            return True
        now = time.monotonic()
        refinable = [o for o in onlookers if o.can_refine(now)]
        if not refinable:
            return False
        coarsest = min(refinable, key=lambda o: o.drawn / o.limit)
        self._draw(coarsest, fields, None, lambda: go_on() and not any(o.is_due for o in onlookers))
        return True

    def _draw(
        self, onlooker: Onlooker, fields: Fields, seconds: float | None, wanted: Callable[[], bool] | None
    ) -> None:
        """Draw for an onlooker: in about so many seconds, or finer than before while it is wanted."""
        viewpoint, display, moved = onlooker.viewpoint, onlooker.display, onlooker.moved
        assert viewpoint is not None
        if seconds is None:
            height = min(onlooker.limit, int(FINER * onlooker.drawn))
        else:
            pictures = 2 if display.channel == "difference" else 1
            height = self.pace.height(seconds, viewpoint, onlooker.limit, pictures)

        def render(renderer: Renderer, camera: Cameras) -> Render:
            return self.render(renderer, camera, wanted)

        camera = viewpoint.camera(height).to(self.device)
        try:
            picture = to_bytes(draw(display, fields, camera, render))
        except Outdated:
            return
        onlooker.show(picture)
        if onlooker.moved == moved:
            onlooker.drawn = height

    @torch.no_grad()
    def render(self, renderer: Renderer, camera: Cameras, wanted: Callable[[], bool] | None = None) -> Render:
        """Render a view in bands of rows, measuring. Raises Outdated as soon as it is no longer wanted."""
        bands, top = [], 0
        while top < camera.height:
            if wanted is not None and not wanted():
                raise Outdated
            count = self.pace.rows(BAND_SECONDS, camera.width) if wanted else camera.height
            band = rows(camera, top, min(top + count, camera.height))
            start = time.monotonic()
            bands.append(renderer.render(band))
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.pace.measured(band.height * band.width, time.monotonic() - start)
            top += band.height
        if len(bands) == 1:
            return bands[0]
        return Render(
            torch.cat([b.rgb for b in bands]),
            torch.cat([b.depth for b in bands]),
            torch.cat([b.opacity for b in bands]),
        )
