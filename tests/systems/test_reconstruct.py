"""What is particular to the reconstruction of scenes that were photographed from all around."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from ids3d.cameras import Views, look_at, pinhole
from ids3d.scene import Kind, Scene, Similarity
from models.geometry.grid import GridGeometry
from models.renderers.occupancy import OccupancyRenderer
from systems.reconstruct import Reconstruct

BOX = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])
STEP = 0.25


def scene(kind: Kind) -> Scene:
    angle = torch.arange(6) * math.pi / 3
    eye = torch.stack([1.6 * angle.sin(), 0.4 * angle.cos(), 1.6 * angle.cos()], dim=-1)
    cameras = pinhole(look_at(eye, torch.zeros(3), torch.tensor([0.0, 1.0, 0.0])), 12, 16, fov_y=40.0)
    pictures = torch.rand(6, 12, 16, 3, generator=torch.Generator().manual_seed(0))
    views = Views(pictures, cameras, tuple("abcdef"))
    still = Similarity(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 1.0)
    return Scene(views, views[:1], BOX, 0.3, 3.5, None, kind, still)


def after_a_step(kind: Kind, **settings: object) -> GridGeometry:
    """The field after one step of Adam, whose length is then the learning rate wherever there is a gradient."""
    cfg = Reconstruct.Config(steps=1, rays_per_step=400, refine_at=(), lr_density=STEP, **settings)  # type: ignore[arg-type]
    geometry = GridGeometry(GridGeometry.Config(voxels=500), BOX)
    module = Reconstruct(
        cfg,
        OccupancyRenderer(OccupancyRenderer.Config(steps=64), geometry, BOX, 0.3, 3.5, None),
        scene(kind),
        seed=0,
    )
    trainer = pl.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, DataLoader(range(1)))  # type: ignore[arg-type]
    return geometry


def views_by_hand(point: torch.Tensor) -> int:
    """How many cameras have the point in their picture, by the angles to it."""
    cameras, count = scene("all around").train.cameras, 0
    for c2w in cameras.c2w:
        right, up, back, centre = c2w.unbind(-1)
        to = point - centre
        ahead = float(-to @ back)
        half = math.tan(math.radians(20)) * ahead
        count += ahead > 0 and abs(float(to @ up)) <= half and abs(float(to @ right)) <= half * 16 / 12
    return count


def test_a_node_moves_at_the_share_of_the_views_that_see_it() -> None:
    geometry = after_a_step("all around")
    moved = geometry.raw_density.detach()[:, 0].abs()
    views = torch.tensor([views_by_hand(node) for node in geometry.nodes()])
    assert len(set(views.tolist())) > 3 and views.max() == 6
    touched = moved > 0
    assert touched.sum() > 100
    torch.testing.assert_close(moved[touched], STEP * views[touched] / 6, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind, settings", [("forward-facing", {}), ("all around", {"rate_by_views": False})])
def test_else_all_nodes_move_alike(kind: Kind, settings: dict[str, object]) -> None:
    moved = after_a_step(kind, **settings).raw_density.detach().abs()
    torch.testing.assert_close(
        moved[moved > 0], torch.full_like(moved[moved > 0], STEP), rtol=1e-3, atol=1e-5
    )
