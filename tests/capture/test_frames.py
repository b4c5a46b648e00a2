"""Frames are chosen sharp, and evenly over what the camera saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter1d

from ids3d.capture.frames import STEP, Candidate, choose, measure, movement, sharpness
from ids3d.capture.video import open_video, read_every
from tests.capture.films import texture, window, write_film

WIDTH = 128


def candidates_of(film: Path) -> list[Candidate]:
    return list(measure(read_every(open_video(film), 1, 960)))


def test_blur_of_any_kind_lowers_sharpness_and_exposure_does_not() -> None:
    image = window(texture(), 50.0)
    sharp = sharpness(image)
    assert sharpness(0.4 * image + 20) == pytest.approx(sharp, rel=1e-3)
    for blurred in (
        gaussian_filter(image.astype(float), 1.0),
        uniform_filter1d(image.astype(float), 5, axis=1),
        uniform_filter1d(image.astype(float), 5, axis=0),
    ):
        assert sharpness(blurred) < 0.75 * sharp
    assert sharpness(np.full((20, 30), 7)) == 0
    noise = np.random.default_rng(0).standard_normal((200, 200))
    assert sharpness(noise) == pytest.approx(3, rel=0.02)  # E(n0 - 2 n1 + n2)² / E(n0 - n1)² = 6 / 2


@pytest.mark.parametrize("pixels", [0, 2, 5, 10, 30, 50])
def test_movement_is_the_shift_of_the_picture(pixels: int) -> None:
    source = texture() / 255
    before, after = (window(255 * source, left).astype(np.float32) / 255 for left in (40.0, 40.0 + pixels))
    assert movement(before, after) * WIDTH == pytest.approx(pixels, abs=max(0.3, 0.1 * pixels))


def test_going_ahead_is_movement_too() -> None:
    source, (rows, columns) = texture(), np.mgrid[:96, :128].astype(float)
    before, after = (
        map_coordinates(source, [250 + z * (rows - 48), 250 + z * (columns - 64)], order=1) / 255
        for z in (1.0, 0.88)
    )
    moved = movement(before.astype(np.float32), after.astype(np.float32))
    assert moved * WIDTH == pytest.approx(
        0.12 * float(np.median(np.hypot(rows - 48, columns - 64))), rel=0.25
    )


def test_the_sharp_frames_are_taken_from_a_film_where_every_third_is_sharp(tmp_path: Path) -> None:
    source = texture()
    blurred = gaussian_filter(source, 2.0)
    frames = (window(source if k % 3 == 0 else blurred, 4.0 * k) for k in range(60))
    write_film(tmp_path / "film.mp4", frames)
    chosen = choose(candidates_of(tmp_path / "film.mp4"), 10)
    assert len(chosen) == 10
    assert [c.index % 3 for c in chosen] == [0] * 10
    gaps = np.diff([c.index for c in chosen])
    assert (
        gaps.min() >= 3 and gaps.max() <= 9
    )  # six frames, a third of them either way, and a sharp one's place


def test_a_camera_that_rests_gives_no_frames_meanwhile(tmp_path: Path) -> None:
    source, rng = texture(), np.random.default_rng(1)
    lefts = [*np.linspace(0, 128, 30), *([128.0] * 60), *np.linspace(128, 256, 30)]
    trembling = (window(source, left + rng.uniform(-0.5, 0.5)) for left in lefts)
    write_film(tmp_path / "film.mp4", trembling)
    found = candidates_of(tmp_path / "film.mp4")
    assert found[-1].position == pytest.approx(2.0, rel=0.15)  # two widths of the picture
    resting = [c.index for c in choose(found, 200) if 32 <= c.index < 88]
    assert len(resting) <= 2
    assert len(choose(found, 200)) == pytest.approx(2.0 / STEP, rel=0.2)


def test_a_still_camera_gives_one_frame(tmp_path: Path) -> None:
    source, rng = texture(), np.random.default_rng(2)
    noisy = (window(source, 10.0) * 0.9 + rng.normal(0, 4, (96, 128)) + 5 for _ in range(40))
    write_film(tmp_path / "film.mp4", (frame.clip(0, 255).astype(np.uint8) for frame in noisy))
    assert len(choose(candidates_of(tmp_path / "film.mp4"), 200)) == 1


def test_the_limit_spreads_the_frames_over_the_whole_way() -> None:
    positions = np.concatenate([np.linspace(0, 1, 50), np.linspace(1, 4, 50)])  # three times as fast, later
    found = [Candidate(k, 1.0, float(p)) for k, p in enumerate(positions)]
    chosen = choose(found, 8)
    assert len(chosen) == 8
    steps = np.diff([c.position for c in chosen])
    assert steps.min() > 0.3 and steps.max() < 0.7  # half a picture each, a sixth of it either way
    assert choose([], 8) == []
