"""Frames of a video file through ffmpeg, upright and reduced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from ids3d.errors import UserError

SUFFIXES = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".mpg", ".mpeg", ".3gp"}


@dataclass(frozen=True)
class Video:
    """A video whose header has been read.

    Attributes:
        path: absolute.
        frames: how many there are.
        seconds: how long it lasts.
        width, height: of the frames in pixels, once turned upright as the file says.
    """

    path: Path
    frames: int
    seconds: float
    width: int
    height: int

    def seconds_at(self, frame: int) -> float:
        """When a frame is shown, in seconds from the beginning, as if all were shown equally long."""
        return frame * self.seconds / max(self.frames, 1)

    def reduced(self, longest: int) -> tuple[int, int]:
        """(width, height) with a longest side of `longest` pixels at most."""
        scale = min(1.0, longest / max(self.width, self.height))
        return max(1, round(self.width * scale)), max(1, round(self.height * scale))


def open_video(path: Path) -> Video:
    """Read a video's header and first frame. Raises UserError: it is no video, or damaged."""
    path = path.resolve()
    try:
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(path)
        reader = imageio_ffmpeg.read_frames(path)
        width, height = next(reader)["size"]
        first = next(reader, None)
        reader.close()
    except Exception as error:  # imageio-ffmpeg raises whatever ffmpeg's words lead it to
        raise _unreadable(path, error) from error
    if first is None or frames < 1:
        raise UserError(f"{path} cannot be read as a video: it has no frames")
    return Video(path, frames, seconds, width, height)


def read_every(video: Video, every: int, longest: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, grey (h, w) uint8) of each `every`-th frame, reduced."""
    frames = _read(video, f"not(mod(n\\,{every}))", longest, "gray")
    return ((k * every, frame[..., 0]) for k, frame in enumerate(frames))


def read_chosen(video: Video, indices: Sequence[int], longest: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, RGB (h, w, 3) uint8) of the frames with these indices, which ascend, reduced."""
    chosen = "+".join(f"eq(n\\,{index})" for index in indices)
    return zip(indices, _read(video, chosen, longest, "rgb24"), strict=False)


def _read(video: Video, select: str, longest: int, pixels: str) -> Iterator[np.ndarray]:
    width, height = video.reduced(longest)
    channels = {"gray": 1, "rgb24": 3}[pixels]
    # Frames as they are in the file, none twice and none dropped, so that two passes count alike.
    filters = ["-vf", f"select={select},scale={width}:{height}:flags=area", "-fps_mode", "passthrough"]
    try:
        reader = imageio_ffmpeg.read_frames(
            video.path, pix_fmt=pixels, bits_per_pixel=8 * channels, output_params=filters
        )
        next(reader)  # the header
        yield from _arrays(reader, (height, width, channels))
    except (OSError, RuntimeError, ValueError, StopIteration, AssertionError) as error:
        raise _unreadable(video.path, error) from error


def _arrays(frames: Iterable[bytes], shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    for frame in frames:
        yield np.frombuffer(frame, dtype=np.uint8).reshape(shape)


def _unreadable(path: Path, error: Exception) -> UserError:
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in reversed(said) if path.name in line or "Invalid" in line), "")
    return UserError(f"{path} cannot be read as a video: {told or 'ffmpeg finds none in it'}")
