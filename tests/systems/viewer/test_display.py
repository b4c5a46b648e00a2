"""What is drawn is what a whole render shows, in whichever parts and bands it is rendered."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from ids3d.cameras import Cameras
from ids3d.images import colour_depth, depth_range, difference
from ids3d.models.renderers.protocol import Render
from ids3d.systems.viewer.display import (
    CHANNELS,
    LAYOUTS,
    Display,
    Fields,
    Outdated,
    Pace,
    Viewpoint,
    columns,
    draw,
    fitted,
    rows,
)
from ids3d.systems.viewer.looking import fov_of
from ids3d.systems.viewer.painter import Onlooker, Painter


class Directions:
    """A renderer in closed form: colour, depth and opacity of a ray follow from its direction."""

    def __init__(self, gain: float) -> None:
        self.gain, self.rays = gain, 0

    def render(self, camera: Cameras) -> Render:
        directions = camera.rays().directions[0]
        self.rays += camera.height * camera.width
        rgb = (directions / 2 + 0.5) * self.gain
        return Render(rgb, 2 + directions[..., 0] * self.gain, rgb.mean(dim=-1))


SOURCE, EDITED = Directions(1.0), Directions(0.5)
FIELDS = Fields(SOURCE, EDITED)  # type: ignore[arg-type]
POSE = torch.cat([torch.eye(3), torch.tensor([[0.1], [0.2], [3.0]])], dim=1)
VIEW = Viewpoint(POSE, 50.0, 40, 30)
CAMERA = VIEW.camera(30)


def whole(renderer: object, camera: Cameras) -> Render:
    return renderer.render(camera)  # type: ignore[attr-defined, no-any-return]


def solid(render: Render) -> Tensor:
    """Its depth, 0 where more than half of the light passes."""
    return torch.where(render.opacity < 0.5, torch.zeros(()), render.depth)


def channel_of(renders: list[Render], channel: str) -> list[Tensor]:
    if channel == "depth":
        near, far = depth_range([solid(r) for r in renders])
        return [colour_depth(solid(r), near, far) for r in renders]
    return [r.rgb if channel == "rgb" else r.opacity[..., None].expand(-1, -1, 3) for r in renders]


def test_a_part_of_a_camera_sees_what_the_whole_one_sees_there() -> None:
    render = SOURCE.render(CAMERA)
    part = SOURCE.render(rows(columns(CAMERA, 5, 17), 3, 21))
    assert torch.allclose(part.rgb, render.rgb[3:21, 5:17], atol=1e-6)


@pytest.mark.parametrize("channel", [c for c in CHANNELS if c != "difference"])
def test_one_field_is_shown_as_it_is_rendered(channel: str) -> None:
    for layout, field in (("source", SOURCE), ("edited", EDITED)):
        shown = draw(Display(layout, channel), FIELDS, CAMERA, whole)  # type: ignore[arg-type]
        assert torch.allclose(shown, channel_of([field.render(CAMERA)], channel)[0], atol=1e-5)


@pytest.mark.parametrize("channel", [c for c in CHANNELS if c not in ("difference", "depth")])
def test_a_wipe_shows_the_source_left_of_its_line_and_the_edit_right_of_it(channel: str) -> None:
    source, edited = channel_of([SOURCE.render(CAMERA), EDITED.render(CAMERA)], channel)
    shown = draw(Display("wipe", channel, 0.3), FIELDS, CAMERA, whole)  # type: ignore[arg-type]
    assert torch.allclose(shown[:, :11], source[:, :11], atol=1e-5) and (shown[:, 11] == 1).all()
    assert torch.allclose(shown[:, 12:], edited[:, 12:], atol=1e-5)
    for wipe, expected in ((0.0, edited), (1.0, source)):
        shown = draw(Display("wipe", channel, wipe), FIELDS, CAMERA, whole)  # type: ignore[arg-type]
        assert torch.allclose(shown, expected, atol=1e-5)


def test_a_fitted_camera_sees_the_middle_square_of_the_other() -> None:
    # A window of 60 × 30: its middle square fits into each half as it is, one of 40 × 30 shrinks to 20 of 30.
    wide = Viewpoint(POSE, 50.0, 60, 30).camera(30)
    half = fitted(wide, 30, 30)
    assert torch.allclose(half.rays().directions, columns(wide, 15, 45).rays().directions, atol=1e-6)
    small = fitted(CAMERA, 30, 20)
    corners = columns(CAMERA, 5, 35)  # its middle square, whose sides' middles lie on the other's
    x, y = CAMERA.fx * 20 / 30, CAMERA.fy * 20 / 30
    assert torch.allclose(small.fx, x) and torch.allclose(small.fy, y)
    left = (0 - small.cx) / small.fx, (0 - corners.cx) / corners.fx
    assert torch.allclose(*left) and float(small.cy) == 15


def test_side_by_side_both_show_the_same() -> None:
    shown = draw(Display("side by side"), FIELDS, CAMERA, whole)
    half = fitted(CAMERA, 30, 20)
    assert shown.shape == (30, 40, 3)
    assert torch.allclose(shown[:, :19], SOURCE.render(half).rgb[:, :19], atol=1e-5)
    assert torch.allclose(shown[:, 20:], EDITED.render(half).rgb, atol=1e-5)
    odd = draw(Display("side by side"), FIELDS, Viewpoint(POSE, 50.0, 41, 30).camera(30), whole)
    assert odd.shape == (30, 41, 3)


def test_in_a_high_window_the_source_is_above_the_edit() -> None:
    high = Viewpoint(POSE, 50.0, 20, 40).camera(40)
    shown, half = draw(Display("side by side"), FIELDS, high, whole), fitted(high, 20, 20)
    assert shown.shape == (40, 20, 3) and torch.equal(half.fy, high.fy)
    assert torch.allclose(shown[:19], SOURCE.render(half).rgb[:19], atol=1e-5) and (shown[19] == 1).all()
    assert torch.allclose(shown[20:], EDITED.render(half).rgb, atol=1e-5)


def test_depths_beside_each_other_have_one_scale() -> None:
    shown = draw(Display("side by side", "depth"), FIELDS, CAMERA, whole)
    halves = [solid(f.render(fitted(CAMERA, 30, 20))) for f in (SOURCE, EDITED)]
    assert (halves[0] == 0).any() and (halves[0] > 0).any()
    near, far = depth_range(halves)
    assert torch.allclose(shown[:, 20:], colour_depth(halves[1], near, far), atol=1e-5)


def test_the_difference_is_that_of_both_fields_in_every_layout() -> None:
    expected = difference(SOURCE.render(CAMERA).rgb, EDITED.render(CAMERA).rgb)
    for layout in LAYOUTS:
        assert torch.equal(draw(Display(layout, "difference"), FIELDS, CAMERA, whole), expected)
    alone = Fields(SOURCE)  # type: ignore[arg-type]
    assert not draw(Display("source", "difference"), alone, CAMERA, whole).any()


@pytest.mark.parametrize(
    "odd", [{"layout": "both"}, {"channel": "<script>"}, {"wipe": math.nan}, {"wipe": 2.0}]
)
def test_what_cannot_be_shown_is_refused(odd: dict) -> None:
    with pytest.raises(ValueError, match="cannot show"):
        Display(**odd)


def test_bands_make_the_same_picture() -> None:
    painter = Painter(torch.device("cpu"))
    painter.pace.rate = 40 * 7 / 0.1  # seven rows a band, to begin with
    banded = painter.render(SOURCE, CAMERA, lambda: True)  # type: ignore[arg-type]
    render = SOURCE.render(CAMERA)
    for a, b in ((banded.rgb, render.rgb), (banded.depth, render.depth), (banded.opacity, render.opacity)):
        assert torch.allclose(a, b, atol=1e-6)


def test_it_gets_ready_once_and_for_nobody() -> None:
    painter, field = Painter(torch.device("cpu")), Directions(1.0)
    fields = Fields(field, EDITED)  # type: ignore[arg-type]
    expected = painter.pace.height(0.2, VIEW, 30)
    for _ in range(2):
        painter.get_ready(fields, VIEW)
        assert 0 < field.rays < 100
    assert painter.pace.height(0.2, VIEW, 30) == expected, "what loads at a first use must not count as slow"


def test_a_picture_that_nobody_wants_any_more_is_given_up() -> None:
    painter, field, asked = Painter(torch.device("cpu")), Directions(1.0), iter([True, True, False])
    painter.pace.rate, painter.pace.measured = 40 / 0.1, lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(Outdated):
        painter.render(field, CAMERA, lambda: next(asked))  # type: ignore[arg-type]
    assert field.rays == 2 * 40


def test_a_moving_camera_gets_coarse_pictures_and_one_at_rest_ever_finer_ones() -> None:
    pictures: list[np.ndarray] = []
    painter, onlooker = Painter(torch.device("cpu")), Onlooker(pictures.append, finest=100)
    painter.pace.rate, painter.pace.measured = 2000, lambda *_: None  # type: ignore[method-assign]
    window = Viewpoint(POSE, 50.0, 400, 300)
    for _ in range(3):
        onlooker.look(viewpoint=window)
        assert painter.paint(FIELDS, [onlooker], lambda: True)
    assert len(pictures) == 3 and {p.shape for p in pictures} == {(17, 23, 3)}  # 0.2 s of rays
    assert not painter.paint(FIELDS, [onlooker], lambda: True)  # it may still be moving
    onlooker.moved = time.monotonic() - 10
    while painter.paint(FIELDS, [onlooker], lambda: True):
        pass
    assert [p.shape[0] for p in pictures[3:]] == [34, 68, 100]
    expected = EDITED.render(window.camera(100)).rgb
    assert np.abs(pictures[-1] / 255 - expected.numpy()).max() < 0.6 / 255


def test_who_moves_is_served_before_who_rests() -> None:
    drawn: list[str] = []
    first, second = Onlooker(lambda _: drawn.append("a")), Onlooker(lambda _: drawn.append("b"))
    painter = Painter(torch.device("cpu"))
    for onlooker in (first, second):
        onlooker.look(viewpoint=VIEW)
    assert painter.paint(FIELDS, [first, second], lambda: True)
    assert painter.paint(FIELDS, [first, second], lambda: True)
    assert sorted(drawn) == ["a", "b"]
    first.moved = second.moved = time.monotonic() - 10
    first.drawn = 16
    second.look(viewpoint=VIEW)
    assert painter.paint(FIELDS, [first, second], lambda: True) and drawn[-1] == "b"


def test_a_picture_of_a_view_that_was_left_meanwhile_does_not_count() -> None:
    onlooker = Onlooker(lambda _: onlooker.look(viewpoint=VIEW))
    onlooker.look(viewpoint=VIEW)
    onlooker.moved -= 1
    Painter(torch.device("cpu")).paint(FIELDS, [onlooker], lambda: True)
    assert onlooker.is_due


def test_the_pace_follows_what_is_measured() -> None:
    pace = Pace(rate=100)
    for _ in range(50):
        pace.measured(5000, 0.5)
    assert pace.rate == pytest.approx(10_000, rel=1e-3)
    assert pace.height(0.2, Viewpoint(POSE, 50, 200, 100), 1000) == int(math.sqrt(0.2 * pace.rate / 2))
    assert pace.height(10, VIEW, 30) == 30 and pace.height(1e-6, VIEW, 30) == 16


@pytest.mark.parametrize("aspect", [0.5, 4 / 3, 3.0])
def test_a_window_shows_all_of_a_view(aspect: float) -> None:
    fov = fov_of(CAMERA, 0, aspect)
    up = math.tan(fov / 2)
    seen = CAMERA.rays().directions[0]
    most_up, most_across = (float((seen[..., i] / seen[..., 2]).abs().max()) for i in (1, 0))
    pixel = 1 / float(CAMERA.fx)
    # All of it, and no more than that: half a pixel lies between the outer pixels' middles and the edge.
    tight = min(up - most_up, aspect * up - most_across)
    assert tight == pytest.approx(pixel / 2, abs=1e-5)
