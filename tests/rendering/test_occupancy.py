from __future__ import annotations

import itertools
import math

import nerfacc
import torch
from torch import Tensor

from ids3d.cameras import look_at, pinhole
from ids3d.rendering import OccupancyGrid, cubic_resolution

BOX = torch.tensor([-1.0, -2.0, 0.0, 1.0, 2.0, 1.0])


def ball(positions: Tensor) -> Tensor:
    """Opacity 0.5 within half a unit of (0, 0, 0.5), else 0."""
    centre = torch.tensor([0.0, 0.0, 0.5])
    return 0.5 * ((positions - centre).norm(dim=-1) < 0.5).float()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def cell_centres(grid: OccupancyGrid, level: int = 0) -> Tensor:
    box, sizes = grid.aabbs[level], grid.opacity.shape[1:]
    axes = [box[i] + (torch.arange(n) + 0.5) / n * (box[3 + i] - box[i]) for i, n in enumerate(sizes)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def test_cubic_resolution() -> None:
    assert cubic_resolution(BOX, 8 * 1000) == (20, 40, 10)
    assert cubic_resolution(torch.tensor([0.0, 0, 0, 1, 1, 1e-3]), 1000)[2] == 2


def test_everything_is_occupied_before_the_first_update() -> None:
    assert OccupancyGrid(BOX, (4, 8, 2)).binaries.all()


def test_warm_up_finds_the_ball() -> None:
    grid = OccupancyGrid(BOX, (20, 40, 10))
    for step in range(20):
        grid.update(step, ball, seeded().manual_seed(step))
    distance = (cell_centres(grid) - torch.tensor([0.0, 0.0, 0.5])).norm(dim=-1)
    assert grid.binaries[0][distance < 0.45].all()
    assert not grid.binaries[0][distance > 0.5 + 0.09].any()  # half of a cell's diagonal


def test_levels_are_nested_boxes() -> None:
    grid = OccupancyGrid(BOX, (8, 8, 8), levels=3)
    assert grid.aabbs.tolist()[1] == [-2, -4, -0.5, 2, 4, 1.5]
    assert grid.aabbs.tolist()[2] == [-4, -8, -1.5, 4, 8, 2.5]
    found: list[Tensor] = []
    grid.update(0, lambda x: found.append(x) or ball(x), seeded())  # type: ignore[func-returns-value]
    for box, positions in zip(grid.aabbs, found, strict=True):
        assert len(positions) == 512
        assert (positions >= box[:3]).all() and (positions <= box[3:]).all()
        assert (positions.amax(0) - positions.amin(0) > 0.8 * (box[3:] - box[:3])).all()


def test_every_cell_is_looked_at_within_itself() -> None:
    grid = OccupancyGrid(BOX, (3, 4, 5))
    found: list[Tensor] = []
    grid.update(0, lambda x: found.append(x) or ball(x), seeded())  # type: ignore[func-returns-value]
    half = (BOX[3:] - BOX[:3]) / torch.tensor([3, 4, 5]) / 2
    assert ((found[0] - cell_centres(grid).view(-1, 3)).abs() <= half + 1e-6).all()


def test_estimates_decay_and_rise_at_once() -> None:
    grid = OccupancyGrid(BOX, (2, 2, 2))
    grid.update(0, lambda x: torch.full((8,), 0.5), seeded())
    grid.update(1, lambda x: torch.zeros(8), seeded(), decay=0.9)
    torch.testing.assert_close(grid.opacity, torch.full((1, 2, 2, 2), 0.45))
    grid.update(2, lambda x: torch.full((8,), 0.7), seeded(), decay=0.9)
    torch.testing.assert_close(grid.opacity, torch.full((1, 2, 2, 2), 0.7))


def test_threshold_is_the_mean_if_that_is_lower() -> None:
    values = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0005, 0.002, 0.003, 0.002])
    grid = OccupancyGrid(BOX, (2, 2, 2))
    grid.update(0, lambda x: values, seeded(), threshold=0.01)
    assert grid.binaries.flatten().tolist() == (values >= values.mean()).tolist()
    grid.update(0, lambda x: values * 100, seeded(), threshold=0.04)
    assert grid.binaries.flatten().tolist() == (values * 100 >= 0.04).tolist()


def test_an_even_field_stays_occupied_and_an_empty_one_does_not() -> None:
    for value in (1e-3, 0.1, 1 / 3, 7.0):
        grid = OccupancyGrid(BOX, (7, 11, 13))
        grid.update(0, lambda x, value=value: torch.full((len(x),), value), seeded())
        assert grid.binaries.all()
    grid.update(0, lambda x: torch.zeros(len(x)), seeded(), decay=0.0)
    assert not grid.binaries.any()


def test_after_the_warm_up_some_cells_are_looked_at() -> None:
    grid = OccupancyGrid(BOX, (20, 40, 10))
    grid.update(0, ball, seeded())
    occupied = int(grid.binaries.sum())
    found: list[Tensor] = []
    grid.update(300, lambda x: found.append(x) or ball(x), seeded())  # type: ignore[func-returns-value]
    drawn = 8000 * (1 - (1 - 1 / 8000) ** 2000)  # different ones among 2000 of 8000
    assert occupied < 2000  # so that all of them are looked at
    assert abs(len(found[0]) - (drawn + occupied * (1 - drawn / 8000))) < 100
    assert len(torch.unique(found[0], dim=0)) == len(found[0])
    full = OccupancyGrid(BOX, (20, 40, 10))
    full.update(300, lambda x: found.append(x) or ball(x), seeded())  # type: ignore[func-returns-value]
    assert drawn < len(found[1]) <= 4000


def test_the_same_seed_gives_the_same_grid() -> None:
    grids = [OccupancyGrid(BOX, (6, 6, 6)) for _ in range(2)]
    for grid in grids:
        generator = seeded()
        for step in (0, 300, 301):
            grid.update(step, lambda x: x.norm(dim=-1) / 100, generator)
    assert torch.equal(grids[0].opacity, grids[1].opacity)
    assert torch.equal(grids[0].binaries, grids[1].binaries)


def test_a_checkpoint_carries_it() -> None:
    grid, other = OccupancyGrid(BOX, (6, 6, 6)), OccupancyGrid(BOX, (6, 6, 6))
    grid.update(0, ball, seeded())
    other.load_state_dict(grid.state_dict())
    assert torch.equal(other.binaries, grid.binaries) and torch.equal(other.opacity, grid.opacity)


def test_what_a_camera_knows_to_be_empty_is_never_occupied() -> None:
    """Against a loop over cells and cameras, by the angles between a cell's centre and the camera's axes."""
    grid = OccupancyGrid(BOX, (7, 9, 5), levels=2)
    eye = torch.tensor([[2.5, 0.5, 0.5], [-1.0, 4.0, 1.0], [0.0, 0.0, 4.0]])
    c2w = look_at(eye, torch.tensor([0.0, 0.2, 0.4]).expand(3, 3), torch.tensor([0.1, 0.0, 1.0]))
    cameras, near = pinhole(c2w, 30, 40, fov_y=40.0), torch.tensor([1.8, 3.0, 2.0])
    grid.carve(cameras, near)
    kinds = set()
    for level in range(2):
        box = grid.aabbs[level]
        reach = float(((box[3:] - box[:3]) / torch.tensor([7, 9, 5])).norm()) / 2
        for cell in itertools.product(range(7), range(9), range(5)):
            centre = cell_centres(grid, level)[cell]
            seen = nothing = False
            for pose, nearest in zip(c2w, near.tolist(), strict=True):
                right, up, back, position = pose.unbind(-1)
                ahead = -float((centre - position) @ back)
                tall = math.tan(math.radians(20)) * ahead
                wide = tall * 40 / 30
                offset = centre - position
                pictured = (
                    ahead > 0 and abs(float(offset @ up)) <= tall and abs(float(offset @ right)) <= wide
                )
                seen |= pictured
                nothing |= pictured and ahead + reach < nearest
            kinds.add((seen, nothing))
            assert bool(grid.possible[level][cell]) == (not nothing)
    assert kinds == {(False, False), (True, False), (True, True)}
    for step in (0, 1000):
        grid.update(step, lambda x: torch.ones(len(x)), seeded(), warmup_steps=10)
        assert torch.equal(grid.binaries, grid.possible)


def test_what_is_carved_does_not_count_in_the_mean_as_in_nerfacc() -> None:
    sizes = (6, 5, 4)
    values = 1e-3 * torch.rand(sizes, generator=seeded()).square()
    carved = torch.arange(120).view(sizes) % 3 == 0
    values[carved] *= 20  # fog before the cameras, which would raise the mean

    def opacity_of(positions: Tensor) -> Tensor:
        cells = ((positions - BOX[:3]) / (BOX[3:] - BOX[:3]) * torch.tensor(sizes)).long()
        return values[cells.unbind(-1)]

    theirs = nerfacc.OccGridEstimator(BOX, list(sizes))
    theirs.occs[carved.flatten()] = -1  # what their mark_invisible_cells writes
    theirs._update(0, lambda positions: opacity_of(positions)[:, None], occ_thre=0.01)
    ours = OccupancyGrid(BOX, sizes)
    ours.possible[0] = ~carved
    ours.update(0, opacity_of, seeded(), threshold=0.01)
    assert torch.equal(ours.binaries, theirs.binaries)
    assert 0 < ours.binaries.sum() < (~carved).sum() and values.mean() > 2 * values[~carved].mean()


def test_a_grid_that_is_carved_all_through_is_empty() -> None:
    grid = OccupancyGrid(BOX, (2, 2, 2))
    grid.possible[:] = False
    grid.update(0, lambda x: torch.ones(len(x)), seeded())
    assert not grid.binaries.any()


def test_a_position_is_occupied_as_the_smallest_box_around_it_says() -> None:
    grid = OccupancyGrid(torch.tensor([-1.0, -1, -1, 1, 1, 1]), (2, 4, 2), levels=2)
    grid.binaries[:] = False
    grid.binaries[0, 1, 3, 0] = True  # x in [0, 1], y in [0.5, 1], z in [-1, 0]
    grid.binaries[1, 0] = True  # x in [-2, 0], of what lies around the first box
    positions = torch.tensor(
        [
            [0.5, 0.75, -0.5],
            [1.0, 1.0, -1.0],
            [0.5, 0.25, -0.5],
            [-0.5, 0, 0],
            [-1.5, 0, 0],
            [1.5, 0, 0],
            [9.0, 0, 0],
        ]
    )
    assert grid.occupied(positions).tolist() == [True, True, False, False, True, False, False]
