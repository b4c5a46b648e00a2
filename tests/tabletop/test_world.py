"""The worlds' colours: told apart, never washed out, and in the light one all in one direction from the floor."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ids3d.errors import UserError
from ids3d.tabletop.render import render
from ids3d.tabletop.scene import Light, TabletopScene, around_cameras
from ids3d.tabletop.world import FORMER, LIGHT, WORLDS, World, save_world, world_of

POINTS = torch.rand(3, 2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 6 - 3


@pytest.mark.parametrize("world", WORLDS.values(), ids=str)
def test_floors_walls_and_colours_are_told_apart(world: World) -> None:
    floors = [floor(POINTS) for floor in world.floors.values()]
    means, spread = (
        torch.stack(values) for values in zip(*((f.mean(-1), f.std()) for f in floors), strict=True)
    )
    different = torch.cdist(means, means) + (spread[:, None] - spread).abs() + torch.eye(len(floors))
    assert different.min() > 0.08
    for palette in (world.colours, world.walls):
        values = torch.tensor(list(palette.values()))
        assert (torch.cdist(values, values) + torch.eye(len(values))).min() > 0.05
    for name, floor in world.floors.items():
        bright = TabletopScene((), name, next(iter(world.walls)), Light(0.0, 68.0, 1.1), world)
        assert (
            floor(POINTS).amax() * (world.ambient + 1.1 * 0.93 * world.direct) < 1.02
        )  # nothing is burnt out
        assert render(bright, around_cameras(0, 1, 16)).rgb.max() <= 1


def test_no_surface_of_the_light_world_is_without_a_pattern() -> None:
    for floor in LIGHT.floors.values():
        assert floor(POINTS).std(-1).max() > 0.03
    assert LIGHT.wallpaper(POINTS).std() > 0.01


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_from_every_light_floor_and_wall_all_colours_lie_in_one_direction() -> None:
    """By albedo: every pair of colours, every floor and wall."""
    colours = [torch.tensor(c, dtype=torch.float64) for c in LIGHT.colours.values()]
    grounds = [floor(POINTS).mean(-1) for floor in LIGHT.floors.values()]
    grounds += [torch.tensor(c, dtype=torch.float64) for c in LIGHT.walls.values()]
    worst = min(cosine(a - f, b - f) for f in grounds for a, b in itertools.combinations(colours, 2))
    assert worst > 0.15
    # The former world shows that the test can fail.
    wood, former = (
        FORMER.floors["wooden"](POINTS).mean(-1),
        [torch.tensor(FORMER.colours[c]) for c in ("red", "green")],
    )
    assert cosine(former[0] - wood, former[1] - wood) < 0


def test_a_folder_says_which_world_it_knows(tmp_path: Path) -> None:
    assert world_of(tmp_path) == (FORMER, 64)
    save_world(tmp_path, LIGHT, 128)
    assert world_of(tmp_path) == (LIGHT, 128)
    (tmp_path / "world.json").write_text('{"world": "dark", "size": 64}')
    with pytest.raises(UserError, match="does not name a world"):
        world_of(tmp_path)
