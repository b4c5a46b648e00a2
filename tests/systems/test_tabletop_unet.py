"""What the training of the tabletop UNet weighs."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch

from ids3d.systems.train.denoiser import LATENT
from ids3d.systems.train.tabletop_unet import TabletopUNet
from ids3d.systems.train.timesteps import middle_timesteps, noisiest_timesteps
from ids3d.tabletop.patches import WALL_CLASS


def test_objects_and_their_surroundings_weigh_more_where_they_can_be_seen() -> None:
    labels = torch.zeros(2, LATENT, LATENT, dtype=torch.long)
    labels[:, 5:8, 9:11] = WALL_CLASS + 3  # six latent pixels, and 14 around them
    labels[:, 0] = WALL_CLASS
    cfg = SimpleNamespace(cfg=TabletopUNet.Config(object_weight=4.0))
    weights = TabletopUNet._object_weights(cfg, labels.flatten(1), torch.tensor([True, False]))  # type: ignore[arg-type]
    assert torch.equal(weights[1], torch.ones(LATENT, LATENT))
    heavy = torch.zeros(LATENT, LATENT, dtype=torch.bool)
    heavy[4:9, 8:12] = True
    mean = (20 * 4 + (256 - 20)) / 256
    assert torch.allclose(weights[0][heavy], torch.tensor(4 / mean))
    assert torch.allclose(weights[0][~heavy], torch.tensor(1 / mean))


def test_middle_timesteps_follow_the_density_of_mode_sampling() -> None:
    """The share of timesteps below x is the quantile u at which the transform of eq. 20 falls to x, by bisection."""
    count, middle = 20_000, 0.8
    t = middle_timesteps(count, middle, torch.Generator().manual_seed(0))
    assert t.min() >= 0 and t.max() <= 999
    for x in (0.1, 0.3, 0.5, 0.8):
        low, high = 0.0, 1.0
        for _ in range(50):
            u = (low + high) / 2
            value = 1 - u - middle * (math.cos(math.pi / 2 * u) ** 2 - 1 + u)
            low, high = (u, high) if value > x else (low, u)
        assert abs((t < 1000 * x).double().mean().item() - (1 - low)) < 2e-3


def test_without_a_middle_all_timesteps_are_drawn_alike() -> None:
    t = middle_timesteps(1000, 0.0, torch.Generator().manual_seed(0))
    assert (t.sort().values - torch.arange(1000)).abs().max() <= 1


def test_the_noisiest_timesteps_are_the_last_tenth_all_alike() -> None:
    t = noisiest_timesteps(200, torch.Generator().manual_seed(0))
    found, counts = t.unique(return_counts=True)
    assert found.tolist() == list(range(900, 1000)) and counts.unique().tolist() == [2]
    assert noisiest_timesteps(0, torch.Generator()).shape == (0,)
