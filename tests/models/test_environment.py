"""The panorama against a map made of a known function of the direction, and fitted to one; the dome against points."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ids3d.models.renderers.environment import RADIUS_RATE, Environment


def directions(n: int = 500) -> torch.Tensor:
    return F.normalize(torch.randn(n, 3, generator=torch.Generator().manual_seed(0)), dim=-1)


def smooth(d: torch.Tensor) -> torch.Tensor:
    return torch.stack([d[:, 0], d[:, 1], d[:, 0] * d[:, 2]], dim=-1)


def seen(environment: Environment, d: torch.Tensor) -> torch.Tensor:
    """What is seen from the middle."""
    return environment(torch.zeros_like(d), d)


def painted(height: int, radius: float = torch.inf) -> Environment:
    """`smooth` as a map: the direction of each pixel's centre, from its angles."""
    environment = Environment(height, radius)
    row = (torch.arange(height) + 0.5) / height * torch.pi
    column = (torch.arange(2 * height) + 0.5) / height * torch.pi - torch.pi
    polar, azimuth = torch.meshgrid(row, column, indexing="ij")
    d = torch.stack([polar.sin() * azimuth.sin(), polar.cos(), -polar.sin() * azimuth.cos()], dim=-1)
    with torch.no_grad():
        environment.raw.copy_(smooth(d.view(-1, 3)).view(height, 2 * height, 3).permute(2, 0, 1))
    return environment


def test_directions_find_their_pixels() -> None:
    d = directions()
    error = [(seen(painted(h), d) - torch.sigmoid(smooth(d))).abs().max() for h in (16, 64)]
    # Linear interpolation errs by the square of a pixel's side at most.
    assert error[0] < 0.03
    assert error[1] < error[0] / 3


def test_no_seam_behind() -> None:
    """Colours change as little across the edge of the map as elsewhere."""
    angle = torch.tensor([torch.pi - 1e-4, torch.pi + 1e-4])
    across = torch.stack([angle.sin(), torch.zeros(2), -angle.cos()], dim=-1)
    left, right = seen(painted(16), across)
    assert (left - right).abs().max() < 1e-3


def test_straight_up_and_down() -> None:
    poles = seen(painted(32), torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]))
    # The rows nearest the poles lie half a pixel off.
    assert torch.allclose(poles[:, 1], torch.sigmoid(torch.tensor([1.0, -1.0])), atol=0.01)
    assert poles.isfinite().all()


def test_it_learns_what_it_is_shown() -> None:
    environment, d = Environment(8), directions(2000)
    target = torch.sigmoid(smooth(d))
    adam = torch.optim.Adam(environment.parameters(), lr=0.1)
    for _ in range(100):
        adam.zero_grad()
        F.mse_loss(seen(environment, d), target).backward()
        adam.step()
    assert F.mse_loss(seen(environment, d), target) < 1e-4


def rays_to(radius: float, n: int = 2000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Origins around the middle, directions from there to places of a dome, and the places (unit vectors)."""
    places = directions(n)
    origins = 0.5 * torch.randn(n, 3, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    return origins, F.normalize(radius * places - origins, dim=-1), places


def test_rays_end_on_the_dome() -> None:
    origins, d, places = rays_to(3.0)
    assert torch.allclose(painted(64, radius=3.0)(origins, d), seen(painted(64), places), atol=1e-4)
    # Infinitely far away it does not matter where a ray begins.
    assert torch.equal(painted(64)(origins, d), seen(painted(64), d))


def test_a_ray_that_passes_by_ends_where_it_is_nearest() -> None:
    origins, d = torch.tensor([[4.0, 0.0, 9.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    assert torch.allclose(
        painted(32, radius=3.0)(origins, d), seen(painted(32), torch.tensor([[1.0, 0.0, 0.0]])), atol=1e-4
    )


@pytest.mark.parametrize("begin", [2.0, 6.0])
def test_the_radius_of_a_room_is_found(begin: float) -> None:
    origins, d, places = rays_to(3.0)
    stripes = torch.sigmoid(3 * torch.sin(4 * places))
    environment = Environment(32, begin)
    adam = torch.optim.Adam(environment.parameters(), lr=0.1)
    for _ in range(300):
        adam.zero_grad()
        F.mse_loss(environment(origins, d), stripes).backward()
        adam.step()
    assert environment.raw_radius is not None
    assert begin * math.exp(RADIUS_RATE * environment.raw_radius.item()) == pytest.approx(3.0, rel=0.02)


def test_what_no_view_saw_takes_the_colours_around_it() -> None:
    d = directions(4000)
    hidden = d[:, 2] < -0.9  # 26 degrees around straight ahead
    colour = torch.tensor([0.8, 0.3, 0.1])
    environment = Environment(32)
    adam = torch.optim.Adam(environment.parameters(), lr=0.1)
    for _ in range(200):
        adam.zero_grad()
        error = F.mse_loss(seen(environment, d[~hidden]), colour.expand(int((~hidden).sum()), 3))
        (error + 3e-3 * environment.roughness()).backward()
        adam.step()
    assert (seen(environment, d[hidden]) - colour).abs().max() < 0.1
