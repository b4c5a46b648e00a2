"""What the training of the tabletop UNet weighs."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from ids3d.tabletop.patches import WALL_CLASS
from systems.tabletop_unet import LATENT, TabletopUNet


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
