"""Show results: image files, depth in colour, panels with labels, videos and the camera paths for them.

Images are (h, w, 3) float tensors in [0, 1] unless said otherwise; nothing here is differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import imageio.v2 as iio2
import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from ids3d.cameras import Cameras, closest_to_axes, look_at
from ids3d.errors import UserError
from ids3d.files import atomic_write
from ids3d.scene import CameraLayout


def to_bytes(image: Tensor) -> np.ndarray:
    """Return an image as rounded uint8, what is outside of [0, 1] clamped."""
    return (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def save_image(path: str | Path, image: Tensor) -> None:
    """Write an image as a PNG, whole or not at all."""
    with atomic_write(path) as file:
        iio.imwrite(file, to_bytes(image), extension=".png")


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image (h, w, c) to `size` (height, width): bicubic, antialiased, clamped to [0, 1]."""
    if image.shape[:2] == size:
        return image
    first = image.permute(2, 0, 1)[None]
    resized = F.interpolate(first, size, mode="bicubic", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).clamp(0, 1)


EMPTY = 0.5
"""The grey of a depth map where nothing is: no depth's colour, Viridis has no greys."""


def colour_depth(depth: Tensor, near: float, far: float) -> Tensor:
    """Show depth (h, w) in scene units by the colour map Viridis: near is light, far is dark, on a scale of 1 / depth.

    Equal steps of 1 / depth look equally far apart: the map is perceptually uniform. Depth 0, nothing, is grey.
    """
    nearest, farthest = 1 / max(near, 1e-6), 1 / max(far, 1e-6)
    x = ((1 / depth.clamp_min(1e-6) - farthest) / max(nearest - farthest, 1e-12)).clamp(0, 1)
    colours = colormaps["viridis"](x.detach().cpu().numpy())[..., :3]
    return torch.from_numpy(colours).to(depth).where(depth[..., None] > 0, EMPTY)


def depth_scale(near: float, far: float, height: int) -> Tensor:
    """Return the scale of `colour_depth`, (height, 64, 3), near on top: five depths in scene units at their colours."""
    nearest, farthest = 1 / max(near, 1e-6), 1 / max(far, 1e-6)
    share = torch.linspace(0, 1, height)[:, None]  # from the top
    colours = colour_depth(1 / (nearest + share * (farthest - nearest)), near, far)
    image = Image.new("RGB", (64, height), "white")
    image.paste(Image.fromarray(to_bytes(colours.expand(height, 14, 3))), (4, 0))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=11)
    for i in range(5):
        y = round(i / 4 * (height - 1))
        depth = 1 / (nearest + i / 4 * (farthest - nearest))
        draw.line((18, y, 21, y), fill="black")
        draw.text((24, min(max(y, 6), height - 7)), f"{depth:.3g}", fill="black", font=font, anchor="lm")
    return torch.from_numpy(np.asarray(image).copy()).float() / 255


def depth_range(depths: Iterable[Tensor]) -> tuple[float, float]:
    """Return (near, far) for `colour_depth` that several maps share: 2 % and 98 % of all their positive depths."""
    values = torch.cat([d.detach().flatten().cpu() for d in depths])
    values = values[values > 0]
    if len(values) == 0:
        return 1.0, 2.0
    low, high = np.quantile(values.numpy(), (0.02, 0.98))
    return float(low), float(max(high, low * 1.001))


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Return |a - b| of two images, averaged over the channels, twice as bright, in grey."""
    return (2 * (a - b).abs().mean(dim=-1, keepdim=True)).clamp(0, 1).expand(a.shape)


def panel(
    images: Mapping[str, Tensor], height: int = 192, depths: tuple[float, float] | None = None
) -> Tensor:
    """Put images side by side, each with its label on a strip above it.

    Args:
        images: by their labels, (h, w, 3); they may differ in size, each is brought to `height`.
        height: of the images, pixels.
        depths: (near, far) of the depth maps among them, whose scale is put to the right of all.

    Returns:
        (height + strip, sum of widths + gaps, 3) in [0, 1] on the CPU.
    """
    strip, gap = 18, 4
    font = ImageFont.load_default(size=12)
    shown = []
    if depths is not None:
        images = {**images, "depth": depth_scale(*depths, height)}
    for label, image in images.items():
        tile = Image.fromarray(to_bytes(image))
        width = max(1, round(tile.width * height / tile.height))
        resampling = Image.Resampling.NEAREST if height > tile.height else Image.Resampling.BOX
        shown.append((label, tile.resize((width, height), resampling)))
    sheet = Image.new("RGB", (sum(tile.width + gap for _, tile in shown) - gap, height + strip), "white")
    draw, left = ImageDraw.Draw(sheet), 0
    for label, tile in shown:
        draw.text((left + 2, 2), label, fill="black", font=font)
        sheet.paste(tile, (left, strip))
        left += tile.width + gap
    return torch.from_numpy(np.asarray(sheet).copy()).float() / 255


def require_ffmpeg(otherwise: str = "") -> None:
    """Raise UserError where there is no ffmpeg, which `save_video` needs.

    Args:
        otherwise: the end of the message, on how to do without.
    """
    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f"no film can be written: {error}{otherwise}") from error


def save_video(path: str | Path, frames: Iterable[Tensor], fps: int = 24) -> None:
    """Write frames as an H.264 video (mp4 through ffmpeg), whole or not at all.

    Every frame has the first one's size; odd sizes lose a row or a column, as the codec wants even ones.
    """
    settings = {"codec": "libx264", "quality": 8, "macro_block_size": 1, "ffmpeg_log_level": "error"}
    with atomic_write(path) as file:
        written = 0
        with iio2.get_writer(file, format="FFMPEG", fps=fps, **settings) as writer:
            for frame in frames:
                height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
                writer.append_data(to_bytes(frame[:height, :width]))
                written += 1
        try:  # ffmpeg alone sees a full disk, and keeps it to itself
            whole = imageio_ffmpeg.count_frames_and_secs(file)[0] == written
        except RuntimeError:
            whole = False
        if not whole:
            raise OSError("ffmpeg wrote only a part of it: is the disk full?")


def film_path(cameras: Cameras, layout: CameraLayout, frames: int, distance: float) -> Cameras:
    """Return a closed, smooth camera path for a video of the scene that `cameras` look at.

    Forward-facing cameras give a small ellipse around their average, all looking at one point ahead; cameras from
    all around give an orbit about the point that they look at, at their mean distance and height; cameras that look
    outwards give a turn on the spot.

    Args:
        cameras: (n,) the training cameras.
        layout: how they stand to each other.
        frames: number of cameras on the path.
        distance: how far ahead forward-facing cameras look, in scene units.

    Returns:
        (frames,) cameras of the same image size, with the median intrinsics.
    """
    centres, forward = cameras.centres, _unit(cameras.forward.mean(dim=0))
    middle = centres.mean(dim=0)
    up = _upright(cameras, forward if layout == "forward-facing" else torch.zeros_like(forward))
    angle = torch.arange(frames, device=centres.device) * (2 * math.pi / frames)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    if layout == "forward-facing":
        right = _unit(torch.linalg.cross(forward, up))
        down = torch.linalg.cross(forward, right)
        wide, high = (((centres - middle) @ axis).square().mean().sqrt() for axis in (right, down))
        eye, focus = middle + wide * cos * right + high * sin * down, middle + distance * forward
    else:
        first = _unit(torch.linalg.cross(up, _least_axis(up)))
        ring = cos * first + sin * torch.linalg.cross(up, first)
        if layout == "all around":
            focus = closest_to_axes(centres, cameras.forward)
            arm = centres - focus
            radius = (arm - (arm @ up)[:, None] * up).norm(dim=-1).mean()
            radius = torch.maximum(radius, 1e-3 * arm.norm(dim=-1).mean())  # cameras that look straight down
            eye = focus + (arm @ up).mean() * up + radius * ring
        else:
            eye, focus = middle.expand_as(ring), middle + distance * ring
    one = cameras[torch.zeros(frames, dtype=torch.long, device=centres.device)]
    fx, fy, cx, cy = (t.median().expand(frames) for t in (cameras.fx, cameras.fy, cameras.cx, cameras.cy))
    return replace(one, c2w=look_at(eye, focus, up), fx=fx, fy=fy, cx=cx, cy=cy)


def _upright(cameras: Cameras, across: Tensor) -> Tensor:
    """Return the mean of the cameras' up axes (3,), or another where nothing of it is across a unit vector (or 0)."""
    ups = (cameras.c2w[:, :, 1].mean(dim=0), cameras.c2w[0, :, 1], _least_axis(across))
    return next(_unit(up) for up in ups if float((up - (up @ across) * across).norm()) > 1e-3)


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _least_axis(vector: Tensor) -> Tensor:
    """Return the coordinate axis most across `vector` (3,)."""
    return torch.eye(3, device=vector.device, dtype=vector.dtype)[int(vector.abs().argmin())]
