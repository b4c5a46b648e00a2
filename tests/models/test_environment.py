"""The panorama against a map made of a known function of the direction, and fitted to one."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ids3d.models.renderers.environment import Environment


def directions(n: int = 500) -> torch.Tensor:
    return F.normalize(torch.randn(n, 3, generator=torch.Generator().manual_seed(0)), dim=-1)


def smooth(d: torch.Tensor) -> torch.Tensor:
    return torch.stack([d[:, 0], d[:, 1], d[:, 0] * d[:, 2]], dim=-1)


def painted(height: int) -> Environment:
    """`smooth` as a map: the direction of each pixel's centre, from its angles."""
    environment = Environment(height)
    row = (torch.arange(height) + 0.5) / height * torch.pi
    column = (torch.arange(2 * height) + 0.5) / height * torch.pi - torch.pi
    polar, azimuth = torch.meshgrid(row, column, indexing="ij")
    d = torch.stack([polar.sin() * azimuth.sin(), polar.cos(), -polar.sin() * azimuth.cos()], dim=-1)
    with torch.no_grad():
        environment.raw.copy_(smooth(d.view(-1, 3)).view(height, 2 * height, 3).permute(2, 0, 1))
    return environment


def test_directions_find_their_pixels() -> None:
    d = directions()
    error = [(painted(h)(d) - torch.sigmoid(smooth(d))).abs().max() for h in (16, 64)]
    # Linear interpolation errs by the square of a pixel's side at most.
    assert error[0] < 0.03
    assert error[1] < error[0] / 3


def test_no_seam_behind() -> None:
    """Colours change as little across the edge of the map as elsewhere."""
    angle = torch.tensor([torch.pi - 1e-4, torch.pi + 1e-4])
    across = torch.stack([angle.sin(), torch.zeros(2), -angle.cos()], dim=-1)
    left, right = painted(16)(across)
    assert (left - right).abs().max() < 1e-3


def test_straight_up_and_down() -> None:
    poles = painted(32)(torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]))
    # The rows nearest the poles lie half a pixel off.
    assert torch.allclose(poles[:, 1], torch.sigmoid(torch.tensor([1.0, -1.0])), atol=0.01)
    assert poles.isfinite().all()


def test_it_learns_what_it_is_shown() -> None:
    environment, d = Environment(8), directions(2000)
    target = torch.sigmoid(smooth(d))
    adam = torch.optim.Adam(environment.parameters(), lr=0.1)
    for _ in range(100):
        adam.zero_grad()
        F.mse_loss(environment(d), target).backward()
        adam.step()
    assert F.mse_loss(environment(d), target) < 1e-4
