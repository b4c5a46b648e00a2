"""Videos are read upright and to the frame; what is no video is said to be none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from ids3d.capture.video import open_video, read_chosen, read_every
from ids3d.errors import UserError
from tests.capture.films import write_film


def numbered(k: int) -> np.ndarray:
    """A frame that tells its number: 4 k grey, with a white corner at the top left."""
    frame = np.full((48, 64), 4 * k, dtype=np.uint8)
    frame[:16, :16] = 255
    return frame


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "-odd 'name, [1]: %d\n.mp4"
    write_film(path.with_name("plain.mp4"), (numbered(k) for k in range(50)))
    path.with_name("plain.mp4").rename(path)
    return path


def test_frames_are_those_asked_for(film: Path) -> None:
    video = open_video(film)
    assert (video.frames, video.width, video.height) == (50, 64, 48)
    assert video.seconds_at(25) == pytest.approx(1.25, abs=0.05)
    every = [(index, frame[40, 50]) for index, frame in read_every(video, 7, 64)]
    assert [index for index, _ in every] == list(range(0, 50, 7))
    assert all(abs(int(grey) - 4 * index) <= 3 for index, grey in every)
    wanted = [0, 3, 4, 31, 49]
    chosen = list(read_chosen(video, wanted, 64))
    assert [index for index, _ in chosen] == wanted
    assert all(frame.shape == (48, 64, 3) and abs(int(frame[40, 50, 1]) - 4 * k) <= 3 for k, frame in chosen)


def test_frames_are_reduced(film: Path) -> None:
    video = open_video(film)
    _, frame = next(read_chosen(video, [3], 32))
    assert frame.shape == (24, 32, 3)
    assert frame[2, 2, 0] > 240 > frame[20, 28, 0]
    assert video.reduced(1000) == (64, 48)


def test_a_hundred_frames_can_be_named(film: Path) -> None:
    assert [k for k, _ in read_chosen(open_video(film), range(50), 16)] == list(range(50))


def test_a_film_taken_upright_is_read_upright(film: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned.mp4"
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-display_rotation",
        "90",
        "-i",
        film.resolve(),
    ]
    subprocess.run([*command, "-c", "copy", turned], check=True)
    video = open_video(turned)
    assert (video.width, video.height) == (48, 64)
    _, frame = next(read_chosen(video, [2], 64))
    assert frame.shape == (64, 48, 3)
    assert frame[-8, 8, 0] > 240  # the top left corner, turned by a quarter to the left
    assert frame[8, 8, 0] < 30 and frame[-8, -8, 0] < 30


def test_what_is_no_video_is_said_to_be_none(film: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "half.mp4").write_bytes(film.read_bytes()[:900])
    for name in ("text.mp4", "empty.mp4", "half.mp4"):
        with pytest.raises(UserError, match=f"{name} cannot be read as a video"):
            open_video(tmp_path / name)
