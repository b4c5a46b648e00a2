from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from scipy.special import sph_harm_y
from torch import Tensor
from torch.nn import functional as F

from ids3d.models.geometry.grid import GridGeometry
from ids3d.models.geometry.protocol import Smoothing
from ids3d.models.geometry.spherical_harmonics import basis
from ids3d.models.geometry.trilinear import Trilinear
from ids3d.scene import SceneBounds

BOX = torch.tensor([-1.0, -2.0, 0.0, 1.0, 2.0, 1.0])
BOUNDS = SceneBounds(BOX, 0.5, 6.0, (0.0, 0.0, 0.0))
RESOLUTION = (4, 5, 3)


def points(n: int, seed: int = 0) -> Tensor:
    """In the unit cube, with its corners, nodes and faces among them."""
    x = torch.rand(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[0], x[1], x[2, 0], x[3] = 0, 1, 1, torch.tensor([1 / 3, 0.25, 0.5])
    return x


def table(channels: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(math.prod(RESOLUTION), channels, generator=generator, dtype=torch.float64)


def grid(seed: int = 0, **settings: float) -> GridGeometry:
    geometry = GridGeometry(GridGeometry.Config(**{"voxels": 200, **settings}), BOUNDS)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in geometry.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return geometry


def test_trilinear_equals_scipy() -> None:
    x, values = points(50), table(2)
    nodes = [np.linspace(0, 1, n) for n in RESOLUTION]
    expected = RegularGridInterpolator(nodes, values.view(*RESOLUTION, 2).numpy())(x.numpy())
    torch.testing.assert_close(Trilinear(x, RESOLUTION)(values), torch.from_numpy(expected))


def test_trilinear_equals_grid_sample_forwards_and_backwards() -> None:
    x, values = points(50), table(3).requires_grad_()
    weights = torch.randn(50, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    volume = values.view(1, *RESOLUTION, 3).permute(0, 4, 1, 2, 3)
    expected = F.grid_sample(volume, (x.flip(-1) * 2 - 1).view(1, 1, 1, -1, 3), align_corners=True)
    expected = expected[0, :, 0, 0].T
    ours = Trilinear(x, RESOLUTION)(values)
    torch.testing.assert_close(ours, expected)
    (grad,) = torch.autograd.grad((ours * weights).sum(), values)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), values)
    torch.testing.assert_close(grad, expected_grad)


def test_trilinear_gradients() -> None:
    at = Trilinear(points(6), RESOLUTION)
    assert torch.autograd.gradcheck(at, table(2).requires_grad_())


def test_trilinear_of_no_points_and_of_points_outside() -> None:
    values = table(2).requires_grad_()
    nothing = Trilinear(points(5)[:0], RESOLUTION)(values)
    assert nothing.shape == (0, 2)
    nothing.sum().backward()
    assert values.grad is not None and not values.grad.any()
    outside = torch.tensor([[-0.5, 2.0, 0.3]], dtype=torch.float64)
    face = torch.tensor([[0.0, 1.0, 0.3]], dtype=torch.float64)
    torch.testing.assert_close(Trilinear(outside, RESOLUTION)(values), Trilinear(face, RESOLUTION)(values))


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_spherical_harmonics_equal_scipy(degree: int) -> None:
    d = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d = d / d.norm(dim=-1, keepdim=True)
    theta, phi = torch.acos(d[:, 2]).numpy(), torch.atan2(d[:, 1], d[:, 0]).numpy()
    columns = []
    for n in range(degree + 1):
        for m in range(-n, n + 1):
            y = sph_harm_y(n, abs(m), theta, phi) * (-1) ** m * (math.sqrt(2) if m else 1)
            columns.append((y.imag if m < 0 else y.real) * math.sqrt(4 * math.pi))
    torch.testing.assert_close(basis(d, degree), torch.from_numpy(np.stack(columns, axis=-1)))


def test_voxels_are_about_cubes() -> None:
    geometry = GridGeometry(GridGeometry.Config(voxels=8000), BOUNDS)
    assert geometry.resolution == (20, 40, 10)
    assert geometry.raw_density.shape == (8000, 1) and geometry.raw_appearance.shape == (8000, 3)


@pytest.mark.parametrize(
    ("pixel", "pixels", "expected"),
    [
        (None, None, 1_000_000),
        (0.1, 10**9, 1_000_000),  # wide pixels: no fewer than what costs little
        (0.01, 10**9, 2_000_000),  # a voxel as wide as a pixel, in a box of 2 units of volume
        (0.01, 1_200_000, 1_500_000),  # but no more than the views can tell apart
        (0.001, 10**9, 8_000_000),
    ],
)
def test_voxels_suit_the_views(pixel: float | None, pixels: int | None, expected: int) -> None:
    bounds = replace(BOUNDS, aabb=torch.tensor([0.0, 0, 0, 1, 2, 1]), pixel=pixel, pixels=pixels)
    geometry = GridGeometry(GridGeometry.Config(), bounds)
    assert geometry.full_voxels == pytest.approx(expected, rel=0.02)
    assert geometry.detail() == pytest.approx((2 / expected) ** (1 / 3), rel=0.01)
    geometry.refine(0.1)
    assert geometry.detail() == pytest.approx((2 / expected) ** (1 / 3), rel=0.01)


def test_voxels_suit_the_views_in_the_core() -> None:
    core = torch.tensor([0.25, 0.5, 0.25, 0.75, 1.5, 0.75])
    aabb = torch.tensor([0.0, 0, 0, 1, 2, 1])
    bounds = replace(BOUNDS, aabb=aabb, core=core, pixel=0.008, pixels=10**9)
    geometry = GridGeometry(GridGeometry.Config(magnify=2.0), bounds)
    # 1.5 times as long along each axis, for half of it counts twice; voxels 0.008 wide within, 0.016 outside.
    assert geometry.full_voxels == pytest.approx(1.5**3 * 2 / 0.016**3, rel=0.02)
    assert geometry.detail() == pytest.approx(0.008, rel=0.01)


def test_nodes_are_denser_in_the_core() -> None:
    """Along each axis the grid is even in a coordinate that runs `magnify` times as fast within the core."""
    core = torch.tensor([-0.5, -1.0, 0.2, 0.25, 1.0, 0.6])
    geometry = GridGeometry(GridGeometry.Config(voxels=40_000, magnify=3.0), replace(BOUNDS, core=core))
    with torch.no_grad():
        geometry.raw_density.copy_(
            torch.randn(geometry.raw_density.shape, generator=torch.Generator().manual_seed(0))
        )
    x = torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) * (BOX[3:] - BOX[:3]) + BOX[:3]
    unit, lengths = np.empty((500, 3)), []
    for axis in range(3):
        knots = [float(b[axis]) for b in (BOX[:3], core[:3], core[3:], BOX[3:])]
        run = np.cumsum([0, knots[1] - knots[0], 3 * (knots[2] - knots[1]), knots[3] - knots[2]])
        unit[:, axis] = np.interp(x[:, axis].numpy(), knots, run / run[-1])
        lengths.append(run[-1])
    side = (math.prod(lengths) / 40_000) ** (1 / 3)
    # Sides are rounded to whole nodes.
    assert geometry.resolution == pytest.approx([length / side for length in lengths], abs=0.51)
    raw = Trilinear(torch.from_numpy(unit).float(), geometry.resolution)(geometry.raw_density)[:, 0]
    expected = F.softplus(raw + geometry.shift) / geometry.unit
    # In single precision a position among some 50 nodes is known to some 1e-5 of a voxel.
    torch.testing.assert_close(geometry.density(x), expected, rtol=1e-3, atol=1e-4)
    assert not geometry.density(BOX[None, 3:] + 0.01).any()


def test_it_begins_as_a_thin_grey_fog() -> None:
    geometry = GridGeometry(GridGeometry.Config(voxels=200, initial_alpha=0.01), BOUNDS)
    density, rgb = geometry(torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[1.0, 0.0, 0.0]]))
    unit = (8 / 1e6) ** (1 / 3)
    assert 1 - math.exp(-density[0].item() * unit) == pytest.approx(0.01, rel=1e-4)
    assert rgb.tolist() == [[0.5, 0.5, 0.5]]


def test_density_and_colour_by_hand() -> None:
    geometry = grid(sh_degree=1)
    x, d = torch.tensor([[0.1, -1.3, 0.7]]), torch.tensor([[0.6, 0.0, 0.8]])

    def at(values: Tensor, resolution: tuple[int, ...]) -> np.ndarray:
        ends = zip(BOX[:3].tolist(), BOX[3:].tolist(), resolution, strict=True)
        nodes = [np.linspace(lo, hi, n) for lo, hi, n in ends]
        return RegularGridInterpolator(nodes, values.detach().view(*resolution, -1).numpy())(x.numpy())[0]

    density, rgb = geometry(x, d)
    assert geometry.raw_harmonics is not None
    raw = float(at(geometry.raw_density, geometry.resolution)[0]) + geometry.shift
    assert density[0].item() == pytest.approx(math.log1p(math.exp(raw)) / geometry.unit, rel=1e-4)
    base = at(geometry.raw_appearance, geometry.resolution)
    half = tuple((n + 1) // 2 for n in geometry.resolution)  # what depends on the direction is half as fine
    for channel, coefficients in enumerate(at(geometry.raw_harmonics, half).reshape(3, 3)):
        value = base[channel] + math.sqrt(3) * (0.8 * coefficients[1] + 0.6 * coefficients[2])
        assert rgb[0, channel].item() == pytest.approx(1 / (1 + math.exp(-value)), rel=1e-4)


def test_nothing_outside_the_box() -> None:
    geometry = grid()
    x = torch.tensor([[0.03, 0.1, 0.55], [1.001, 0.0, 0.5], [0.0, -2.001, 0.5], [0.0, 0.0, 9.0]])
    density, _ = geometry(x, F.normalize(torch.ones(4, 3), dim=-1))
    assert torch.equal(density, geometry.density(x))
    assert density[0] > 0 and not density[1:].any()
    density.sum().backward()
    assert geometry.raw_density.grad is not None
    assert int((geometry.raw_density.grad != 0).sum()) == 8


@pytest.mark.parametrize("degree", [0, 2])
def test_gradients_equal_finite_differences(degree: int) -> None:
    geometry = grid(sh_degree=degree).double()
    x = BOX[:3] + points(5).double() * (BOX[3:] - BOX[:3])
    d = F.normalize(points(5, seed=4) - 0.4, dim=-1)

    def field(*tables: Tensor) -> tuple[Tensor, Tensor]:
        names = (name for name, _ in geometry.named_parameters())
        return torch.func.functional_call(geometry, dict(zip(names, tables, strict=True)), (x, d))

    tables = [p.detach().clone().requires_grad_() for p in geometry.parameters()]
    assert torch.autograd.gradcheck(field, tables, fast_mode=True)


def test_frozen_density() -> None:
    geometry = grid(freeze_density=True)
    density, rgb = geometry(torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[1.0, 0.0, 0.0]]))
    (rgb.sum() + density.sum()).backward()
    assert geometry.raw_density.grad is None and geometry.raw_appearance.grad is not None
    assert [p is geometry.raw_density for p in geometry.parameter_groups().density] == [True]
    assert [p is geometry.raw_appearance for p in geometry.parameter_groups().appearance] == [True]
    geometry.resample(400)
    assert not geometry.raw_density.requires_grad


def test_resampling_keeps_the_field() -> None:
    coarse, geometry = grid(), grid()  # the same field twice
    x, y, z = coarse.resolution
    nodes = BOX[:3] + points(100).float() * (BOX[3:] - BOX[:3])
    geometry.resample(200_000)
    assert math.prod(geometry.resolution) == pytest.approx(200_000, rel=0.05)  # whole nodes along each side
    before, after = coarse(nodes, nodes), geometry(nodes, nodes)
    # Not exactly: the nodes of the finer grid do not fall on those of the coarse one.
    assert (after[0] - before[0]).abs().mean() < 0.02 * before[0].mean()
    assert (after[1] - before[1]).abs().mean() < 0.01
    # A field that is linear in space is kept exactly.
    with torch.no_grad():
        axis = torch.linspace(0, 1, x)[:, None, None].expand(x, y, z).reshape(-1, 1)
        coarse.raw_density.copy_(axis)
    coarse.resample(3000)
    expected = torch.linspace(0, 1, coarse.resolution[0])
    torch.testing.assert_close(coarse.raw_density.view(coarse.resolution)[:, 2, 1], expected)


def test_a_checkpoint_of_another_resolution() -> None:
    saved, loaded = grid(), grid(seed=1)
    saved.resample(900)
    loaded.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert loaded.resolution == saved.resolution
    x = points(9).float()
    assert torch.equal(loaded.density(x), saved.density(x))
    assert all(isinstance(p, torch.nn.Parameter) and p.requires_grad for p in loaded.parameters())


def test_total_variation() -> None:
    geometry = grid()
    x, y, z = geometry.resolution
    for weights, parameter in zip(
        (Smoothing(2.0, 0.0), Smoothing(0.0, 2.0)), geometry.parameters(), strict=True
    ):
        volume = parameter.detach().view(x, y, z, -1).numpy()
        expected = sum(float((np.diff(volume, axis=axis) ** 2).mean()) for axis in range(3))
        assert geometry.smooth(weights, None).item() == pytest.approx(2 * expected, rel=1e-5)
    # Slabs: their mean over all places comes close to the whole.
    both = Smoothing(1.0, 0.5)
    slabs = [geometry.smooth(both, torch.Generator().manual_seed(s), planes=2) for s in range(40)]
    whole = geometry.smooth(both, None).item()
    assert torch.stack(slabs).mean().item() == pytest.approx(whole, rel=0.15)  # of 40 draws


@pytest.mark.parametrize("slab", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_the_gradient_of_the_total_variation(slab: bool, before: bool) -> None:
    """It is added to what is there, if anything, where the slab lies; as finite differences have it."""
    geometry = grid(sh_degree=1).double()
    with torch.no_grad():
        for parameter in geometry.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    weights = Smoothing(0.3, 0.7)

    def rough() -> float:
        where = torch.Generator().manual_seed(5) if slab else None
        return geometry.smooth(weights, where, planes=2).item()

    for parameter in geometry.parameters():
        parameter.grad = torch.ones_like(parameter) if before else None
    rough()
    gradients = [parameter.grad.clone() - float(before) for parameter in geometry.parameters()]  # type: ignore[union-attr]
    x, y, z = geometry.resolution
    for parameter, found in zip(geometry.parameters(), gradients, strict=True):
        row = int(found.abs().sum(1).argmax())
        values = []
        for shift in (1e-4, -2e-4):
            with torch.no_grad():
                parameter[row, 0] += shift
            values.append(rough())
        assert found[row, 0].item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-5)
        if parameter is not geometry.raw_harmonics:
            touched = found.view(x, y, z, -1).abs().sum((1, 2, 3)) > 0
            assert int(touched.sum()) == (3 if slab else x)
        with torch.no_grad():
            parameter[row, 0] += 1e-4


def test_what_is_frozen_is_not_smoothed() -> None:
    geometry = grid(freeze_density=True)
    assert geometry.smooth(Smoothing(1.0, 0.0), None) == 0 and geometry.raw_density.grad is None


@pytest.mark.parametrize("settings", [{"voxels": 7}, {"sh_degree": 3}, {"initial_alpha": 0.0}])
def test_bad_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        GridGeometry.Config(**settings)  # type: ignore[arg-type]
