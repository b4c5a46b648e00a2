"""The cosines that say whether recolourings are well-posed: by hand on features that are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ids3d.cli import run_command
from ids3d.tabletop.__main__ import main
from ids3d.tabletop.cosines import cosines, table
from ids3d.tabletop.world import LIGHT

SMALL = replace(LIGHT, floors={"pink": LIGHT.floors["pink"]}, colours=dict(list(LIGHT.colours.items())[:3]))


def test_cosines_are_those_of_the_ways_from_the_floor() -> None:
    """Of features that are constant in each image: floor (1, 1), then what lies at 0°, 60° and 180° from it."""
    angles = torch.tensor([0.0, 60.0, 180.0]).deg2rad()
    features = torch.cat([torch.stack([angles.cos(), angles.sin()], 1) + 1, torch.ones(1, 2)])

    def see(images: Tensor) -> Tensor:
        assert images.shape == (4, 3, 32, 32)
        return features[:, :, None, None].expand(4, 2, 8, 8)

    found = cosines(SMALL, 32, see, scenes=1)
    expected = torch.tensor([[1.0, 0.5, -1.0], [0.5, 1.0, -0.5], [-1.0, -0.5, 1.0]])
    assert torch.allclose(found["pink"], expected, atol=1e-5)
    lines = table(SMALL, found).splitlines()
    assert [line.split()[-1] for line in lines] == ["pink", "0.50", "-1.00", "-0.50", "-1.00"]


def test_the_light_world_is_well_posed_as_it_is_rendered(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["cosines", "--world", "light", "--size", "32", "--scenes", "2"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1].split()
    assert last[0] == "smallest"
    assert min(map(float, last[1:])) > 0.3
