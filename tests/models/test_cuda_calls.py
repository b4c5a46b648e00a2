"""What nerfacc is given on CUDA, in every space: what the loops for the CPU are, by stand-ins that note it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import nerfacc
import pytest
import torch
from torch import Tensor

from ids3d.cameras import Rays
from ids3d.models.geometry.grid import GridGeometry
from ids3d.models.renderers.occupancy import OccupancyRenderer
from ids3d.rendering.samples import Samples
from ids3d.rendering.volume import transmittance_from_density
from ids3d.scene import SceneBounds
from tests.models.test_spaces import Ball, framed

marching = import_module("ids3d.rendering.march")  # the package has a function of that name

BOX = SceneBounds(
    torch.tensor([-1.0, -1.0, -5.0, 1.0, 1.0, -2.0]), near=1.0, far=8.0, background=(0.1, 0.2, 0.3)
)
SPACES = {
    "box": BOX,
    "core": replace(BOX, core=torch.tensor([-0.4, -0.5, -4.0, 0.5, 0.4, -3.0])),
    "ndc": framed()[2],
}


class OnCuda(Tensor):
    """A tensor that says that it is on a GPU, as does whatever is made of it."""

    is_cuda = property(lambda self: True)  # type: ignore[assignment]


def plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, Tensor) else value


@dataclass
class Notes:
    """Arguments, by the name of nerfacc's function, in the order of its parameters."""

    calls: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def stand_in(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(getattr(nerfacc, name))

        def noted(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)  # an argument that nerfacc does not know raises
            assert any(isinstance(value, OnCuda) for value in bound.arguments.values())
            given = {key: plain(value) for key, value in bound.arguments.items()}
            self.calls.setdefault(name, []).append(given)
            return do(**given)

        return noted


def traversed(**given: Any) -> tuple[SimpleNamespace, SimpleNamespace, None]:
    """What nerfacc.traverse_grids returns, by the loop for the CPU."""
    assert given.pop("cone_angle") == 0
    samples = marching._march_lattice(*given.values())
    n = len(samples)
    left = torch.arange(2 * n) < n
    intervals = SimpleNamespace(
        vals=torch.cat([samples.t_starts, samples.t_ends]).as_subclass(OnCuda), is_left=left, is_right=~left
    )
    rays = samples.ray_indices.as_subclass(OnCuda), samples.packed_info.as_subclass(OnCuda)
    return intervals, SimpleNamespace(ray_indices=rays[0], packed_info=rays[1]), None


def transmitted(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, packed_info: Tensor, **more: Any
) -> tuple[Tensor, Tensor]:
    assert not more
    through, alphas = transmittance_from_density(t_starts, t_ends, sigmas, packed_info)
    return through.as_subclass(OnCuda), alphas.as_subclass(OnCuda)


def seen(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor,
    early_stop_eps: float,
    alpha_thre: float,
) -> Tensor:
    through, alphas = transmittance_from_density(t_starts, t_ends, sigmas, packed_info)
    return (through >= early_stop_eps) & (alphas >= alpha_thre)


def renderer_in(space: str) -> OccupancyRenderer:
    """Its field cannot be marched through by density, so that both ways ask for the same."""
    bounds = SPACES[space]
    if space != "ndc":
        geometry: Any = GridGeometry(GridGeometry.Config(voxels=8000), bounds)
        with torch.no_grad():
            table = geometry.raw_density
            table.copy_(8 * torch.randn(table.shape, generator=torch.Generator().manual_seed(0)))
        geometry.density_grid = lambda: None
    else:
        geometry = Ball(bounds.space)
    made = OccupancyRenderer(OccupancyRenderer.Config(steps=300, occupancy_cells=4000), geometry, bounds)
    for step in range(0, 64, 16):
        made.before_step(step, torch.Generator().manual_seed(step))
    assert 0 < made.occupancy.binaries.float().mean() < 1
    return made


def rays_in(space: str) -> Rays:
    if space == "ndc":
        return framed()[1].resized(12, 16).rays().flatten()
    directions = torch.randn(200, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [0.3, 0.3, 0.0]
    )
    directions[:, 2] = -1
    return Rays(torch.zeros(200, 3), torch.nn.functional.normalize(directions, dim=-1))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("shifted", [False, True])
def test_nerfacc_is_given_what_the_loops_are(
    space: str, shifted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer, rays = renderer_in(space), rays_in(space)
    ours: list[tuple[Any, ...]] = []
    lattice = marching._march_lattice

    def noting(*args: Any) -> Samples:
        ours.append(args)
        return lattice(*args)

    def generator() -> torch.Generator | None:
        return torch.Generator().manual_seed(7) if shifted else None

    with monkeypatch.context() as patch:
        patch.setattr(marching, "_march_lattice", noting)
        expected = renderer(rays, generator())
    notes = Notes()
    for name, do in {
        "traverse_grids": traversed,
        "render_visibility_from_density": seen,
        "render_transmittance_from_density": transmitted,
    }.items():
        monkeypatch.setattr(nerfacc, name, notes.stand_in(name, do))
    on_cuda = Rays(rays.origins.as_subclass(OnCuda), rays.directions.as_subclass(OnCuda))
    found = renderer(on_cuda, generator())

    assert {name: len(calls) for name, calls in notes.calls.items()} == {
        "traverse_grids": 1,
        "render_visibility_from_density": 1,
        "render_transmittance_from_density": 1,
    }
    given = [value for key, value in notes.calls["traverse_grids"][0].items() if key != "cone_angle"]
    for theirs, our in zip(given, ours[0], strict=True):
        if isinstance(our, Tensor):
            assert theirs.dtype == our.dtype and theirs.shape == our.shape and torch.equal(theirs, our)
        else:
            assert theirs == our
    assert len(expected.samples) > 50 and float(expected.opacity.detach().max()) > 0.9
    for theirs, our in ((found.rgb, expected.rgb), (found.depth, expected.depth)):
        torch.testing.assert_close(plain(theirs), our)
