from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ids3d.cameras import Cameras, Rays, look_at, pinhole
from ids3d.models.geometry.grid import GridGeometry
from ids3d.models.geometry.protocol import Smoothing
from ids3d.models.renderers.occupancy import OccupancyRenderer
from ids3d.registry import find
from ids3d.scene import SceneBounds
from ids3d.space import NDC
from tests.rendering import reference

BOX = torch.tensor([-1.0, -1.0, -0.5, 1.0, 1.0, 0.5])
BACKGROUND = (0.2, 0.4, 0.6)
NEAR, FAR = 0.5, 6.0
BOUNDS = SceneBounds(BOX, NEAR, FAR, BACKGROUND)


class Fog(nn.Module):
    """One density and one colour within a ball, to be known exactly."""

    def __init__(self, density: float, radius: float) -> None:
        super().__init__()
        self.value, self.radius = density, radius

    def density_grid(self) -> None:
        return None

    def detail(self) -> None:
        return None

    def density(self, positions: Tensor) -> Tensor:
        return self.value * (positions.norm(dim=-1) < self.radius).to(positions)

    def forward(self, positions: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return self.density(positions), torch.tensor([1.0, 0.5, 0.0]).expand(len(positions), 3)


def camera(size: int = 12, eye: tuple[float, float, float] = (0.3, -2.5, 0.4)) -> Cameras:
    up = torch.tensor([0.0, 0.0, 1.0])
    return pinhole(look_at(torch.tensor(eye), torch.zeros(3), up)[None], size, size + 2, 45.0)


def random_scene(bounds: SceneBounds = BOUNDS, **settings: float) -> OccupancyRenderer:
    geometry = GridGeometry(GridGeometry.Config(voxels=600, initial_alpha=0.02), bounds)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        geometry.raw_density.copy_(torch.randn(geometry.raw_density.shape, generator=generator) * 3)
        geometry.raw_appearance.copy_(torch.randn(geometry.raw_appearance.shape, generator=generator))
    cfg = OccupancyRenderer.Config(**{"steps": 40, "occupancy_cells": 300, **settings})  # type: ignore[arg-type]
    return OccupancyRenderer(cfg, geometry, bounds)


def test_it_is_registered() -> None:
    assert find("renderer", "occupancy") is OccupancyRenderer
    assert find("geometry", "grid") is GridGeometry


def test_fog_as_the_formula_says() -> None:
    """Through the middle of a ball of fog: opacity 1 - exp(-σ 2r), depth the mean of a cut-off exponential."""
    sigma, radius = 1.5, 0.45
    cfg = OccupancyRenderer.Config(steps=3000, early_stop_eps=0.0, alpha_threshold=0.0)
    renderer = OccupancyRenderer(cfg, Fog(sigma, radius), BOUNDS)
    rays = Rays(torch.tensor([[0.0, -2.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]]))
    out = renderer(rays)
    # Steps of 1e-3 end up to one off the ball's surface.
    opacity = 1 - math.exp(-sigma * 2 * radius)
    assert out.opacity.item() == pytest.approx(opacity, rel=2e-3)
    colour = [opacity * c + (1 - opacity) * b for c, b in zip((1.0, 0.5, 0.0), BACKGROUND, strict=True)]
    assert out.rgb[0].tolist() == pytest.approx(colour, rel=5e-3)
    into = 1 / sigma - 2 * radius * math.exp(-sigma * 2 * radius) / opacity
    assert out.depth.item() == pytest.approx(2 - radius + into, rel=2e-3)


@pytest.mark.parametrize("core", [None, torch.tensor([-0.3, 0.0, -0.5, 0.5, 0.6, 0.1])], ids=["even", "core"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_grid_is_marched_through_as_any_field(core: Tensor | None, threads: int) -> None:
    """The samples of a march that looks the density up by itself are those that a loop over all of them keeps."""
    renderer = random_scene(
        BOUNDS if core is None else replace(BOUNDS, core=core), early_stop_eps=0.05, alpha_threshold=0.02
    )
    renderer.occupancy.binaries.copy_(
        torch.rand(renderer.occupancy.binaries.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    )
    rays = camera(48).rays().flatten()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        samples = renderer(rays).samples
    finally:
        torch.set_num_threads(before)
    size = renderer.step_size
    near, far = torch.full((len(rays),), NEAR), torch.full((len(rays),), FAR)
    every = renderer.occupancy.march(rays.origins, rays.directions, near, far, size)
    points = rays.origins[every.ray_indices] + every.midpoints[:, None] * rays.directions[every.ray_indices]
    thickness = renderer.geometry.density(points).detach() * size
    kept, light, ray = [], 1.0, -1
    for i, (r, x) in enumerate(zip(every.ray_indices.tolist(), thickness.tolist(), strict=True)):
        light, ray = (light, ray) if r == ray else (1.0, r)
        if light >= 0.05 and 1 - math.exp(-x) >= 0.02:
            kept.append(i)
            light *= math.exp(-x)
    assert 500 < len(kept) < 0.8 * len(every)
    assert torch.equal(samples.ray_indices, every.ray_indices[kept])
    assert torch.equal(samples.t_starts, every.t_starts[kept]) and torch.equal(
        samples.t_ends, every.t_ends[kept]
    )
    assert torch.equal(samples.packed_info[:, 1], torch.bincount(samples.ray_indices, minlength=len(rays)))
    assert torch.equal(samples.packed_info[1:, 0], samples.packed_info.cumsum(0)[:-1, 1])


def test_it_equals_a_loop_over_rays() -> None:
    renderer = random_scene(early_stop_eps=0.0, alpha_threshold=0.0)
    renderer.occupancy.binaries.copy_(
        torch.rand(renderer.occupancy.binaries.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    )
    rays = camera().rays().flatten()
    out = renderer(rays)
    for i in range(0, len(rays), 7):
        o, d = rays.origins[i].double(), rays.directions[i].double()
        marched = reference.march_equal_steps(
            o.numpy(),
            d.numpy(),
            renderer.occupancy.binaries.numpy(),
            renderer.occupancy.aabbs.double().numpy(),
            NEAR,
            FAR,
            renderer.step_size,
        )
        middles = (torch.tensor(marched.t_starts) + torch.tensor(marched.t_ends)) / 2
        positions = (o + middles[:, None] * d).float()
        sigma, rgb = renderer.geometry(positions, d.float().expand(len(middles), 3))
        values = torch.cat([rgb, middles[:, None], torch.ones(len(middles), 1)], dim=-1)
        *_, total = reference.composite(sigma.tolist(), [renderer.step_size] * len(middles), values.tolist())
        red, green, blue, depth, opacity = total or [0.0] * 5
        expected = [c + (1 - opacity) * b for c, b in zip((red, green, blue), BACKGROUND, strict=True)]
        # Single precision: a sample near a cell's face may fall on its other side.
        assert out.rgb[i].tolist() == pytest.approx(expected, abs=1e-3)
        assert out.opacity[i].item() == pytest.approx(opacity, abs=1e-3)
        assert out.depth[i].item() == pytest.approx(depth / max(opacity, 1e-7), rel=1e-2)


def test_leaving_out_what_cannot_be_seen_changes_next_to_nothing() -> None:
    rays = camera().rays().flatten()
    everything = random_scene(early_stop_eps=0.0, alpha_threshold=0.0)(rays)
    seen = random_scene()(rays)
    assert len(seen.samples) < 0.9 * len(everything.samples)
    # Left out are samples with an opacity below 1e-4, some tens a ray, and the last 1e-4 of its light.
    torch.testing.assert_close(seen.rgb, everything.rgb, rtol=0, atol=3e-3)
    torch.testing.assert_close(seen.opacity, everything.opacity, rtol=0, atol=3e-3)


def test_a_view_is_its_rays_and_does_not_depend_on_the_chunk() -> None:
    renderer, view = random_scene(), camera()
    with torch.no_grad():
        out = renderer(view.rays().flatten())
    for chunk in (None, 31):
        image = renderer.render(view, chunk)
        assert image.rgb.shape == (12, 14, 3) and image.depth.shape == image.opacity.shape == (12, 14)
        assert not image.rgb.requires_grad
        torch.testing.assert_close(image.rgb.view(-1, 3), out.rgb)
        torch.testing.assert_close(image.depth.view(-1), out.depth)
        torch.testing.assert_close(image.opacity.view(-1), out.opacity)
    assert (image.rgb >= 0).all() and (image.rgb <= 1).all()
    assert (image.depth[image.opacity > 0.1] > NEAR).all() and (image.depth < FAR).all()


@pytest.mark.parametrize("chunk", [None, 50])
@pytest.mark.parametrize("frozen", [False, True])
def test_deferred_back_propagation_equals_back_propagation(chunk: int | None, frozen: bool) -> None:
    renderer, view = random_scene(), camera()
    geometry = renderer.geometry
    assert isinstance(geometry, GridGeometry)
    geometry.raw_density.requires_grad_(not frozen)
    d_rgb = torch.randn(12, 14, 3, generator=torch.Generator().manual_seed(2))

    rgb = renderer(view.rays().flatten()).rgb
    parameters = [p for p in geometry.parameters() if p.requires_grad]
    expected = torch.autograd.grad((rgb * d_rgb.view(-1, 3)).sum(), parameters)

    renderer.backward(view, d_rgb, chunk)
    for parameter, grad in zip(parameters, expected, strict=True):
        assert parameter.grad is not None and parameter.grad.any()
        # Single precision: chunks are summed in another order.
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-5)
    renderer.backward(view, d_rgb, chunk)  # adds up, as any backward does
    torch.testing.assert_close(parameters[0].grad, 2 * expected[0], rtol=1e-4, atol=1e-5)
    assert not frozen or geometry.raw_density.grad is None


def test_rays_that_see_nothing() -> None:
    renderer = random_scene()
    away = camera(eye=(0.0, -20.0, 0.0))
    image = renderer.render(away)
    torch.testing.assert_close(image.rgb, torch.tensor(BACKGROUND).expand(12, 14, 3))
    assert not image.depth.any() and not image.opacity.any()
    renderer.backward(away, torch.ones(12, 14, 3))
    none = Rays(torch.zeros(0, 3), torch.zeros(0, 3))
    out = renderer(none, torch.Generator())
    assert out.rgb.shape == (0, 3) and out.depth.shape == (0,) and len(out.samples) == 0


def test_the_shift_comes_from_the_generator() -> None:
    renderer, rays = random_scene(), camera().rays().flatten()
    first, again, other = (renderer(rays, torch.Generator().manual_seed(s)).rgb for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    shifted = torch.stack([renderer(rays, torch.Generator().manual_seed(s)).depth for s in range(20)])
    still = renderer(rays)
    solid = still.opacity > 0.5
    torch.testing.assert_close(
        shifted.mean(0)[solid], still.depth[solid], rtol=0, atol=1.5 * renderer.step_size
    )


def test_updates_come_every_so_many_steps() -> None:
    renderer = random_scene(occupancy_every=4)
    renderer.before_step(3, torch.Generator())
    assert renderer.occupancy.binaries.all() and not renderer.occupancy.opacity.any()
    renderer.before_step(4, torch.Generator())
    assert 0 < renderer.occupancy.binaries.float().mean() < 1


def test_an_untouched_field_stays_occupied() -> None:
    """Or it would be skipped, get no gradient, and stay empty for ever."""
    geometry = GridGeometry(GridGeometry.Config(), BOUNDS)
    renderer = OccupancyRenderer(OccupancyRenderer.Config(), geometry, BOUNDS)
    renderer.before_step(0, torch.Generator())
    assert renderer.occupancy.binaries.all()
    assert geometry.density(torch.zeros(1, 3)).item() * renderer.step_size > renderer.cfg.occupancy_threshold


@pytest.mark.parametrize(
    ("voxels", "given", "expected"),
    [(20**3, 55, 55), (20**3, None, 3**0.5 * 20 / 1.165), (100**3, None, 3**0.5 * 100 / 1.165)],
)
def test_steps_suit_the_voxels(voxels: int, given: int | None, expected: float) -> None:
    """A cube of n voxels a side has a diagonal of √3 n of them, and a step is 1.165 of them long."""
    bounds = replace(BOUNDS, aabb=torch.tensor([-1.0, -1, -1, 1, 1, 1]))
    geometry = GridGeometry(GridGeometry.Config(voxels=voxels), bounds)
    renderer = OccupancyRenderer(OccupancyRenderer.Config(steps=given), geometry, bounds)
    assert 2 * 3**0.5 / renderer.step_size == pytest.approx(expected, abs=0.51)


def test_where_the_background_is_not_known_a_panorama_is_learned() -> None:
    geometry = GridGeometry(GridGeometry.Config(voxels=600, initial_alpha=1e-6), BOUNDS)
    unknown = OccupancyRenderer(OccupancyRenderer.Config(), geometry, replace(BOUNDS, background=None))
    assert unknown.environment is not None
    with torch.no_grad():
        unknown.environment.raw.fill_(2.0)
    seen = unknown.render(camera()).rgb  # through a fog whose opacity is far below 1e-3
    torch.testing.assert_close(
        seen, torch.full_like(seen, torch.tensor(2.0).sigmoid().item()), atol=1e-3, rtol=0
    )
    without = OccupancyRenderer(
        OccupancyRenderer.Config(environment=0), geometry, replace(BOUNDS, background=None)
    )
    assert without.environment is None and without.render(camera()).rgb.max() < 1e-3
    known = OccupancyRenderer(OccupancyRenderer.Config(), geometry, BOUNDS)
    assert known.environment is None


def test_the_panorama_is_smoothed_and_only_a_reconstruction_moves_it_away() -> None:
    """Edits change its colours, and leave alone how far away it is. NDC has it infinitely far."""
    bounds = replace(BOUNDS, background=None)
    geometry = GridGeometry(GridGeometry.Config(voxels=600), bounds)
    renderer = OccupancyRenderer(OccupancyRenderer.Config(), geometry, bounds)
    assert renderer.environment is not None and renderer.environment.raw_radius is not None
    groups = renderer.parameter_groups()
    assert [p is renderer.environment.raw for p in groups.appearance] == [False, True]
    assert [p is renderer.environment.raw_radius for p in groups.layout] == [True]
    weights = Smoothing(0.0, 2.0)
    alone = geometry.smooth(weights, None)
    with torch.no_grad():
        renderer.environment.raw[..., ::2] = (
            1.0  # stripes: beside each pixel of a row another, above it the same
        )
    # The row's own two edges are compared with their neighbours across the seam, too: w + 1 pairs in a row.
    assert float(renderer.smooth(weights, None) - alone) == pytest.approx(2.0)
    assert renderer.environment.raw.grad is not None and renderer.environment.raw.grad.abs().min() > 0
    assert renderer.smooth(Smoothing(1.0, 0.0), None) == geometry.smooth(Smoothing(1.0, 0.0), None)
    ahead = NDC(torch.eye(3), torch.zeros(3), near=1.0, depth=1.0)
    far = OccupancyRenderer(OccupancyRenderer.Config(), geometry, replace(bounds, space=ahead))
    assert far.environment is not None and far.parameter_groups().layout == []


def test_a_checkpoint_carries_the_occupancy() -> None:
    renderer, other = random_scene(), random_scene()
    renderer.before_step(0, torch.Generator())
    other.load_state_dict(renderer.state_dict())
    assert torch.equal(other.occupancy.binaries, renderer.occupancy.binaries)


def test_one_camera_at_a_time() -> None:
    two = camera()[torch.tensor([0, 0])]
    with pytest.raises(ValueError, match="one camera"):
        random_scene().render(two)
