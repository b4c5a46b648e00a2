"""What a viewer shows of a scene: which field, which of its channels, and how two of them share a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ids3d.cameras import Cameras, pinhole
from ids3d.images import colour_depth, depth_range, difference
from ids3d.models.renderers.protocol import Render, Renderer

Layout = Literal["source", "edited", "side by side", "wipe"]
Channel = Literal["rgb", "depth", "opacity", "difference"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
CHANNELS: tuple[Channel, ...] = get_args(Channel)

RenderView = Callable[[Renderer, Cameras], Render]


@dataclass(frozen=True)
class Fields:
    """The fields that can be looked at: before the edit, and after it; `edited` is None where there is no edit yet."""

    source: Renderer
    edited: Renderer | None = None

    @property
    def after(self) -> Renderer:
        """The edited field, the source where there is none."""
        return self.edited or self.source


@dataclass(frozen=True)
class Display:
    """What is shown.

    Attributes:
        layout: one field, or both: beside each other (above each other in a window higher than wide), or on both
            sides of a line.
        channel: of the fields; the difference is always that of both.
        wipe: where that line is, from 0 (left) to 1.
    """

    layout: Layout = "edited"
    channel: Channel = "rgb"
    wipe: float = 0.5

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS or self.channel not in CHANNELS or not 0 <= self.wipe <= 1:
            raise ValueError(f"cannot show {self}")


@dataclass(frozen=True)
class Viewpoint:
    """Where a browser looks from.

    Attributes:
        c2w: (3, 4), OpenGL axes.
        fov_y: vertical field of view in degrees.
        width, height: of its window, pixels.
    """

    c2w: Tensor
    fov_y: float
    width: int
    height: int

    def camera(self, height: int) -> Cameras:
        """The camera of a picture of this height, in the window's proportions."""
        width = max(2, round(height * self.width / max(self.height, 1)))
        return pinhole(self.c2w[None], height, width, self.fov_y)


def draw(display: Display, fields: Fields, camera: Cameras, render: RenderView) -> Tensor:
    """Return the picture (h, w, 3) in [0, 1] of what a camera sees.

    Args:
        render: renders a view; it may be asked for parts of the camera's.
    """
    if display.channel == "difference":
        return difference(render(fields.source, camera).rgb, render(fields.after, camera).rgb)
    renders = [render(field, part) for field, part in _parts(display, fields, camera)]
    if display.channel == "depth":
        near, far = depth_range([r.surface_depth for r in renders])
        images = [colour_depth(r.surface_depth, near, far) for r in renders]
    elif display.channel == "opacity":
        images = [r.opacity[..., None].expand(-1, -1, 3).clone() for r in renders]
    else:
        images = [r.rgb for r in renders]
    axis = 0 if display.layout == "side by side" and camera.height > camera.width else 1
    for image in images[:-1]:
        image.select(axis, -1).fill_(1)  # the line between both
    return torch.cat(images, dim=axis)


def _parts(display: Display, fields: Fields, camera: Cameras) -> list[tuple[Renderer, Cameras]]:
    """What is rendered, from left to right, or from the top down."""
    height, width = camera.height, camera.width
    if display.layout == "side by side":
        along = max(height, width)
        halves = [(height, n) if width >= height else (n, width) for n in (along // 2, along - along // 2)]
        return [
            (field, fitted(camera, *half))
            for field, half in zip((fields.source, fields.after), halves, strict=True)
        ]
    line = round(display.wipe * width) if display.layout == "wipe" else 0
    if 0 < line < width:
        return [(fields.source, columns(camera, 0, line)), (fields.after, columns(camera, line, width))]
    shows_source = display.layout == "source" or (display.layout == "wipe" and line == width)
    return [(fields.source if shows_source else fields.after, camera)]


def fitted(camera: Cameras, height: int, width: int) -> Cameras:
    """The camera of a smaller image with the same middle, in which the greatest square of a camera's own is seen."""
    scale = min(1.0, min(height, width) / min(camera.height, camera.width))
    return replace(
        camera,
        fx=scale * camera.fx,
        fy=scale * camera.fy,
        cx=width / 2 + scale * (camera.cx - camera.width / 2),
        cy=height / 2 + scale * (camera.cy - camera.height / 2),
        height=height,
        width=width,
    )


def columns(camera: Cameras, start: int, stop: int) -> Cameras:
    """The part of a camera's image from one column to before another."""
    return replace(camera, cx=camera.cx - start, width=stop - start)


def rows(camera: Cameras, start: int, stop: int) -> Cameras:
    """The part of a camera's image from one row to before another."""
    return replace(camera, cy=camera.cy - start, height=stop - start)


class Outdated(Exception):
    """A picture is no longer wanted."""


class Pace:
    """How many rays a second are rendered, as measured, and the pictures that are possible at that rate.

    Args:
        rate: rays a second, until something has been measured.
    """

    def __init__(self, rate: float = 20_000) -> None:
        self.rate = rate

    def measured(self, rays: int, seconds: float) -> None:
        """Take note that so many rays took so long."""
        self.rate += 0.3 * (rays / max(seconds, 1e-6) - self.rate)

    def height(self, seconds: float, viewpoint: Viewpoint, most: int, pictures: int = 1) -> int:
        """The height of a picture that takes that long, at most `most`; of the window's proportions.

        Args:
            pictures: renders that it takes: two for a difference.
        """
        aspect = viewpoint.width / max(viewpoint.height, 1)
        return int(min(most, max(16, math.sqrt(seconds * self.rate / pictures / aspect))))

    def rows(self, seconds: float, width: int) -> int:
        """How many rows of an image can be rendered in that time, at least one."""
        return max(1, int(seconds * self.rate / width))
