"""Point clouds against the ball that is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from ids3d.cameras import project
from ids3d.data.scenes.points import read_ply
from ids3d.errors import UserError
from ids3d.space import BOX, Space
from ids3d.systems.export.fields import RunFields
from ids3d.systems.export.points import Cloud, Points, thinned
from tests.systems.export.made import CENTRE, NDC_SPACE, RADIUS, TURN, ball, colours


@pytest.mark.parametrize("space", [BOX, NDC_SPACE])
def test_points_lie_on_the_side_of_the_ball_that_is_seen(space: Space, tmp_path: Path) -> None:
    fields = ball(space, sharpness=400.0)
    said = Points(opacity=0.99).write(fields, tmp_path)
    cloud = trimesh.load(tmp_path / "points.ply")
    assert isinstance(cloud, trimesh.PointCloud) and said == f"{len(cloud.vertices)} points"
    points = torch.tensor(np.array(cloud.vertices))
    assert len(points) > 300
    assert ((points - CENTRE).norm(dim=1) - RADIUS).abs().max() < 0.02
    assert points[:, 2].max() > CENTRE[2] + 0.95 * RADIUS and points[:, 2].min() > CENTRE[2] - 0.3
    shown = np.asarray(cloud.colors)[:, :3].astype(float)
    assert np.abs(shown - 255 * colours(points).numpy()).max() < 6
    assert torch.equal(read_ply(tmp_path / "points.ply"), points)
    xy, depth = project(fields.scene.train.cameras, points.float())
    assert bool((depth > 0).all()) and bool(((xy > -1) & (xy < 25)).all())


def test_a_cell_has_one_point_the_mean_of_those_in_it() -> None:
    """The box is (2, 1.8, 1.6) from (-1, -0.9, -0.8): cells of 0.5."""
    places = torch.tensor([[-0.9, -0.8, -0.7], [-0.7, -0.6, -0.5], [-0.4, -0.8, -0.7]], dtype=torch.float64)
    tints = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    found = thinned(Cloud(places, tints), ball(), cells=4)
    expected = torch.stack([places[:2].mean(dim=0), places[2]])
    assert torch.allclose(found.points, expected)
    assert torch.allclose(found.colours, torch.tensor([[0.5, 0.5, 0], [0, 0, 1]], dtype=torch.float64))


def test_coarser_cells_leave_fewer_points(tmp_path: Path) -> None:
    counts = [int(Points(cells=n).write(ball(), tmp_path).split()[0]) for n in (8, 32, 128)]
    assert counts[0] < counts[1] < counts[2] and counts[0] < 60


def test_in_the_files_units_they_are_where_the_files_say(tmp_path: Path) -> None:
    """scene = 0.25 TURN (world - (1, 2, 3))"""
    Points().write(ball(), tmp_path)
    there = read_ply(tmp_path / "points.ply")
    Points(units="files").write(ball(), tmp_path)
    files = read_ply(tmp_path / "points.ply")
    assert torch.allclose(0.25 * (files - torch.tensor([1.0, 2.0, 3.0])) @ TURN.T, there, atol=1e-6)


def test_nothing_opaque_is_said(tmp_path: Path) -> None:
    blank = ball(centre=torch.tensor([50.0, 0, 0]))
    with pytest.raises(UserError, match=r"no pixel of the training views has an opacity of 0\.9"):
        Points().write(RunFields(blank.scene, blank.source, None, blank.device), tmp_path)
    assert not list(tmp_path.iterdir())
