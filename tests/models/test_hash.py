"""The hash grid holds what tiny-cuda-nn's does, whichever way it is read, and can be fitted at a voxel grid's rates."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ids3d.models.geometry import hash_encoding
from ids3d.models.geometry.hash import HashGeometry
from ids3d.models.geometry.hash_encoding import HashEncoding, Levels
from ids3d.models.geometry.protocol import Smoothing
from ids3d.models.renderers.occupancy import OccupancyRenderer
from ids3d.scene import SceneBounds
from tests.models.test_cuda_calls import OnCuda, plain

WITHOUT = "geometry=hash: tinycudann is not installed: PyTorch reads the hash grid, to the same effect"
LEVELS = Levels(
    base=4, count=4, features=2, log2_size=9
)  # of 4, 8, 16 and 32 nodes a side; the last two share
BOX = torch.tensor([-1.0, -2.0, 0.0, 1.0, 2.0, 1.0])
BOUNDS = SceneBounds(BOX, 0.5, 6.0, (0.0, 0.0, 0.0), pixel=0.05)


def points(n: int = 40) -> Tensor:
    """In the unit cube, its corners among them."""
    x = torch.rand(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0], x[1], x[2] = 0, 1, torch.tensor([0.0, 1.0, 0.5])
    return x


def encoding(levels: Levels = LEVELS, dtype: torch.dtype = torch.float64) -> HashEncoding:
    made = HashEncoding(levels).to(dtype)
    nn.init.normal_(made.table, generator=torch.Generator().manual_seed(1))
    return made


def published(table: np.ndarray, x: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """One point's features as tiny-cuda-nn's kernel reads them (its grid.h), in 32-bit whole numbers as there."""
    features, found, offset = config["n_features_per_level"], [], 0
    for level in range(config["n_levels"]):
        scale = config["per_level_scale"] ** level * config["base_resolution"] - 1
        resolution = int(np.ceil(scale)) + 1
        size = min((resolution**3 + 7) // 8 * 8, 1 << config["log2_hashmap_size"])
        position = x * scale + 0.5
        node = np.floor(position)
        share = position - node
        total = np.zeros(features)
        for corner in range(8):
            bits = [corner >> axis & 1 for axis in range(3)]
            weight = np.prod([s if bit else 1 - s for s, bit in zip(share, bits, strict=True)])
            at = (node + bits).astype(np.uint32)
            stride, index = 1, 0
            for axis in range(3):
                if stride > size:
                    break
                index += int(at[axis]) * stride
                stride *= resolution
            if size < stride:
                with np.errstate(over="ignore"):
                    index = int(at[0] ^ (at[1] * np.uint32(2654435761)) ^ (at[2] * np.uint32(805459861)))
            row = offset + index % size
            total += weight * table[row * features : (row + 1) * features]
        found.append(total)
        offset += size
    assert offset * features == len(table)
    return np.concatenate(found)


def test_it_reads_the_table_as_tiny_cuda_nn_does() -> None:
    made, x = encoding(), points()
    expected = [published(made.table.detach().numpy(), point, LEVELS.config()) for point in x.numpy()]
    torch.testing.assert_close(made(x).detach(), torch.from_numpy(np.stack(expected)))
    torch.testing.assert_close(made.by_pytorch(x).detach(), torch.from_numpy(np.stack(expected)))


@pytest.mark.parametrize("threads", [1, 2])
def test_both_ways_pass_the_same_gradient_back(threads: int) -> None:
    made, x = encoding(), points(3000)
    weight = torch.randn(len(x), made.width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        (ours,) = torch.autograd.grad((made(x) * weight).sum(), made.table)
    finally:
        torch.set_num_threads(before)
    (expected,) = torch.autograd.grad((made.by_pytorch(x) * weight).sum(), made.table)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("finest", "sides"), [(2, [2]), (16, [16]), (100, [13, 26, 52, 104]), (250, [16, 32, 64, 128, 256])]
)
def test_the_finest_level_is_as_fine_as_asked_for(finest: int, sides: list[int]) -> None:
    assert Levels.up_to(finest, 4, 18).sides() == sides


class TinyCudaNN(nn.Module):
    """A stand-in for tinycudann.Encoding, which can only be run on a GPU."""

    made: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(
        self, n_input_dims: int, encoding_config: dict[str, Any], seed: int = 1337, dtype: Any = None
    ):
        super().__init__()
        self.made.append((n_input_dims, encoding_config, dtype))
        self.config = encoding_config
        self.params = nn.Parameter(torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(x, OnCuda) and not x.requires_grad
        levels = LEVELS
        assert levels.config() == self.config
        reader = HashEncoding(levels)
        rows = self.params.view(-1, levels.features).split(levels.sizes())
        parts = [
            (part[index] * weight[..., None]).sum(1)
            for part, (index, weight) in zip(rows, reader.corners(plain(x)), strict=True)
        ]
        return torch.cat(parts, dim=-1)


def forget() -> None:
    """Whether tiny-cuda-nn is installed."""
    hash_encoding._tiny_cuda_nn.cache_clear()
    hash_encoding._library.cache_clear()


@pytest.mark.parametrize("installed", [True, False])
def test_on_cuda_tiny_cuda_nn_reads_the_same_table(
    installed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = SimpleNamespace(Encoding=TinyCudaNN) if installed else None
    monkeypatch.setitem(sys.modules, "tinycudann", module)  # None: its import fails
    monkeypatch.setattr(TinyCudaNN, "made", [])
    forget()
    made, x = encoding(dtype=torch.float32), points().float()
    for _ in range(2):
        on_cuda = plain(made(x.as_subclass(OnCuda)))
    forget()
    torch.testing.assert_close(on_cuda, made(x))
    (grad,) = torch.autograd.grad(on_cuda.sum(), made.table)
    (expected,) = torch.autograd.grad(made(x).sum(), made.table)
    torch.testing.assert_close(plain(grad), expected)
    assert TinyCudaNN.made == ([(3, LEVELS.config(), torch.float32)] if installed else [])
    assert [record.message for record in caplog.records].count(WITHOUT) == (0 if installed else 1)
    assert list(made.state_dict()) == ["table"]


def geometry(**settings: Any) -> HashGeometry:
    return HashGeometry(HashGeometry.Config(**{"log2_size": 12, **settings}), BOUNDS)


def test_an_untouched_field_is_thin_and_ends_at_its_box() -> None:
    field = geometry(initial_alpha=0.01)
    inside = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * (BOX[3:] - BOX[:3]) + BOX[:3]
    alpha = 1 - torch.exp(-field.density(inside) * 4 / 100)  # in a hundredth of the longest side
    torch.testing.assert_close(alpha, torch.full_like(alpha, 0.01), rtol=1e-2, atol=0)
    assert not field.density(inside + torch.tensor([0.0, 0.0, 1.0])).any()
    assert field.detail() == pytest.approx(4 / 79)  # of a pixel, 0.05, or a little less


def test_colours_depend_on_the_direction_as_far_as_they_may() -> None:
    x = torch.zeros(2, 3)
    directions = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    for degree, differs in ((0, False), (1, True), (2, True)):
        _, colour = geometry(sh_degree=degree)(x, directions)
        assert bool((colour[0] != colour[1]).any()) == differs


def test_a_frozen_density_is_left_alone() -> None:
    field = geometry(freeze_density=True)
    x = torch.rand(50, 3)
    density, colour = field(x, torch.nn.functional.normalize(torch.randn(50, 3), dim=-1))
    (density.sum() + colour.sum()).backward()
    groups = field.parameter_groups()
    assert all(p.grad is None for p in groups.density)
    assert all(p.grad is not None and p.grad.any() for p in groups.appearance)
    assert sum(p.numel() for p in field.parameters()) == sum(
        p.numel() for p in [*groups.density, *groups.appearance]
    )


def test_it_learns_a_ball_at_the_rates_of_a_voxel_grid() -> None:
    """Adam at the reconstruction's own rates: a hash grid's own would be a twentieth of them (Müller et al. 2022)."""
    field, generator = geometry(), torch.Generator().manual_seed(0)
    groups = field.parameter_groups()
    adam = torch.optim.Adam(
        [{"params": groups.density, "lr": 0.2}, {"params": groups.appearance, "lr": 0.15}], eps=1e-15
    )

    def errors() -> tuple[Tensor, Tensor]:
        x = torch.rand(2000, 3, generator=generator) * 2 - 1
        directions = torch.nn.functional.normalize(torch.randn(2000, 3, generator=generator), dim=-1)
        x[:, 2] = x[:, 2] / 2 + 0.5
        inside = (x - torch.tensor([0.0, 0.0, 0.5])).norm(dim=-1) < 0.4
        density, colour = field(x, directions)
        alpha = 1 - torch.exp(-density * field.unit)
        looks = torch.stack([x[:, 0] > 0, x[:, 1] > 0, directions[:, 0] > 0], dim=-1).float()
        return (alpha - inside * 0.9).square().mean(), (colour - looks).square().mean()

    for _ in range(150):
        adam.zero_grad()
        sum(errors()).backward()  # type: ignore[union-attr]
        adam.step()
    with torch.no_grad():
        density, colour = errors()
    assert density < 0.02 and colour < 0.06  # of no more than a mean: .06 and .25


def test_what_it_says_of_its_roughness_is_of_both_grids() -> None:
    field = geometry()
    with torch.no_grad():
        field.where.table.fill_(5.0)
        field.look.table.fill_(10.0)
    levels = field.where.levels.count
    assert field.smooth(Smoothing(3.0, 0.0), None) == pytest.approx(3 * levels * 1.0)
    assert field.smooth(Smoothing(0.0, 1.0), None) == pytest.approx(levels * 4.0)
    assert field.where.table.grad is not None and field.where.table.grad.min() > 0


def test_the_steps_of_a_march_follow_its_detail() -> None:
    field = geometry()
    renderer = OccupancyRenderer(OccupancyRenderer.Config(steps=100, occupancy_cells=4096), field, BOUNDS)
    assert renderer.step_size == pytest.approx(float((BOX[3:] - BOX[:3]).norm()) / 100)
    assert OccupancyRenderer(
        OccupancyRenderer.Config(), copy.deepcopy(field), BOUNDS
    ).step_size == pytest.approx(1.165 * field.detail(), rel=0.01)


@pytest.mark.parametrize("settings", [{"log2_size": 3}, {"finest": 1}, {"width": 0}])
def test_settings_out_of_bounds_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        HashGeometry.Config(**settings)  # type: ignore[arg-type]
