"""Meshes against a ball in closed form, and against what the renderer shows of the same field."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from ids3d.errors import UserError
from ids3d.models.renderers.protocol import Renderer
from ids3d.scene import Scene
from ids3d.space import BOX, Space
from ids3d.systems.export.fields import RunFields
from ids3d.systems.export.mesh import Mesh, without_small_parts
from tests.systems.export.made import (
    AABB,
    CENTRE,
    NDC_SPACE,
    RADIUS,
    TURN,
    Fog,
    ball,
    colours,
    grid_ball,
    made_scene,
    renderer_of,
)

COARSE = Mesh(surface="density", voxels=200_000)
SEEN = Mesh(voxels=200_000)


def distances(vertices: np.ndarray) -> np.ndarray:
    """From the ball's centre."""
    return np.linalg.norm(vertices - CENTRE.numpy(), axis=1)


def levels(mesh: trimesh.Trimesh) -> np.ndarray:
    """Colours (n, 3) of the vertices, 0 to 255."""
    return np.asarray(mesh.visual.vertex_colors)[:, :3].astype(float)


@pytest.mark.parametrize("space", [BOX, NDC_SPACE])
def test_a_ball_is_a_ball(space: Space) -> None:
    """Radius, volume with its sign, normals and colours against the ball's equation, in the world."""
    mesh = COARSE.extract(ball(space))
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert np.abs(distances(mesh.vertices) - RADIUS).max() < 0.002
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.01)
    outwards = (mesh.vertices - CENTRE.numpy()) / distances(mesh.vertices)[:, None]
    assert (outwards * mesh.vertex_normals).sum(axis=1).min() > 0.99
    expected = colours(torch.tensor(mesh.vertices)).numpy() * 255
    assert np.abs(levels(mesh) - expected).max() < 4


@pytest.mark.parametrize("opacity", [0.2, 0.9])
def test_the_surface_is_where_the_opacity_says(opacity: float) -> None:
    """softplus(60 (R - r)) = -log(1 - opacity)."""
    mesh = Mesh(surface="density", voxels=200_000, opacity=opacity).extract(ball())
    inside = math.log(math.expm1(-math.log1p(-opacity))) / 60
    assert distances(mesh.vertices).mean() == pytest.approx(RADIUS - inside, abs=5e-4)


def test_a_ball_that_the_box_cuts_is_closed_at_the_boxs_sides() -> None:
    mesh = COARSE.extract(ball(centre=torch.tensor([0.8, 0.7, 0.0])))
    low, high = AABB.double().numpy().reshape(2, 3)
    assert mesh.is_watertight and mesh.volume > 0
    assert (mesh.vertices >= low).all() and (mesh.vertices <= high).all()
    assert mesh.vertices.max(axis=0)[:2] == pytest.approx(high[:2], abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(200_000, 3, generator=generator) * (AABB[3:] - AABB[:3]) + AABB[:3]
    share = ((points - torch.tensor([0.8, 0.7, 0.0])).norm(dim=1) < RADIUS).float().mean()
    assert mesh.volume == pytest.approx(float(share * (AABB[3:] - AABB[:3]).prod()), rel=0.02)


def test_simplified_it_has_the_faces_asked_for_and_is_still_the_ball() -> None:
    mesh = Mesh(surface="density", voxels=200_000, faces=2000).extract(ball())
    assert 1800 <= len(mesh.faces) <= 2000
    assert np.abs(distances(mesh.vertices) - RADIUS).max() < 0.01


def test_what_no_ray_meets_is_no_surface() -> None:
    """The occupancy grid's empty cells are left out, as rendering does."""
    renderer = grid_ball()
    renderer.occupancy.binaries[:, : renderer.occupancy.binaries.shape[1] // 2] = False
    mesh = COARSE.extract(RunFields(made_scene(), renderer, None, torch.device("cpu")))
    assert mesh.bounds[0][0] > -0.06 and mesh.bounds[1][0] > 0.55


def test_small_parts_are_left_out() -> None:
    large, small = trimesh.creation.icosphere(radius=1.0), trimesh.creation.icosphere(radius=0.2)
    both = trimesh.util.concatenate([large, small.apply_translation([3, 0, 0])])
    assert len(without_small_parts(both, 0.05).faces) == len(large.faces)
    assert len(without_small_parts(both, 0.03).faces) == len(both.faces)  # 0.04 of the area


def test_the_edited_field_is_taken_where_there_is_one() -> None:
    blank = ball(centre=torch.tensor([50.0, 0, 0]))
    both = RunFields(blank.scene, blank.source, ball().source, blank.device)
    assert COARSE.extract(both).is_watertight
    with pytest.raises(UserError, match=r"nowhere as dense as opacity=0\.5"):
        COARSE.extract(blank)


def test_ply_and_glb_hold_the_same(tmp_path: Path) -> None:
    said = Mesh(surface="density", voxels=200_000, faces=3000).write(ball(), tmp_path)
    ply, glb = (
        trimesh.load(tmp_path / f"mesh.{kind}", force="mesh", process=False) for kind in ("ply", "glb")
    )
    assert isinstance(ply, trimesh.Trimesh) and isinstance(glb, trimesh.Trimesh)
    assert ply.is_watertight and len(ply.faces) > 1000
    assert np.array_equal(ply.vertices, glb.vertices) and np.array_equal(ply.faces, glb.faces)
    assert np.array_equal(levels(ply), levels(glb)) and levels(ply).std() > 10
    figures = json.loads((tmp_path / "mesh.json").read_text())
    assert figures["watertight"] and figures["open_box"] is None and figures["open_edges"] == 0
    assert figures["faces"] == len(ply.faces) and said.endswith("watertight")


def test_in_the_files_units_it_is_where_the_files_say() -> None:
    """scene = 0.25 TURN (world - (1, 2, 3))"""
    there = COARSE.extract(ball()).vertices
    files = Mesh(surface="density", voxels=200_000, units="files").extract(ball())
    back = 0.25 * (files.vertices - np.array([1.0, 2.0, 3.0])) @ TURN.numpy().T
    assert np.abs(back - there).max() < 1e-6 and files.volume > 0


def test_it_says_where_it_is_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def torn(self: Mesh, fields: RunFields) -> trimesh.Trimesh:
        sphere = trimesh.creation.icosphere(radius=0.5)
        sphere.update_faces(sphere.triangles_center[:, 0] < 0.4)
        return sphere

    monkeypatch.setattr(Mesh, "_density_surface", torn)
    said = COARSE.write(ball(), tmp_path)
    figures = json.loads((tmp_path / "mesh.json").read_text())
    assert not figures["watertight"] and figures["open_edges"] > 5 and "not watertight" in said
    assert 0.3 < figures["open_box"][0] <= figures["open_box"][3] < 0.5


def check_against_renders(mesh: trimesh.Trimesh, renderer: Renderer, scene: Scene) -> None:
    """Against three training views or more, where they are opaque: 95 % of their rays hit the mesh, and there its depth
    is off by 2 % of the scene's size at most on average, and for 95 % of them; colours by 8 levels on average.

    The scene's size is the range of depths within its bounds, far - near, as the cameras see them: world units in each
    space, and less than the diagonal of a box around it.
    """
    size = scene.bounds.far - scene.bounds.near
    off, colour, rays_seen = [], [], 0
    for i in range(0, len(scene.train), max(1, len(scene.train) // 3)):
        camera = scene.train.cameras[i].resized(48, 48)
        render, rays = renderer.render(camera), camera.rays().flatten()
        opaque = (render.opacity > 0.95).flatten()
        assert int(opaque.sum()) > 30
        o, d = rays.origins[opaque].double().numpy(), rays.directions[opaque].double().numpy()
        places, which, faces = mesh.ray.intersects_location(o, d, multiple_hits=True)
        along = ((places - o[which]) * d[which]).sum(axis=1)
        # the first place along each ray
        order = np.lexsort((along, which))
        first = order[np.unique(which[order], return_index=True)[1]]
        hit = which[first]
        rays_seen += len(o)
        off.append(np.abs(along[first] - render.depth.flatten()[opaque].numpy()[hit]))
        shares = trimesh.triangles.points_to_barycentric(mesh.triangles[faces[first]], places[first])
        shown = (shares[..., None] * levels(mesh)[mesh.faces[faces[first]]]).sum(axis=1)
        colour.append(np.abs(shown - 255 * render.rgb.reshape(-1, 3)[opaque].numpy()[hit]))
    depths = np.concatenate(off) / size
    assert len(off) >= 3
    assert len(depths) >= 0.95 * rays_seen
    assert depths.mean() <= 0.02 and (depths <= 0.02).mean() >= 0.95
    assert np.concatenate(colour).mean() <= 8


def test_it_agrees_with_what_is_rendered() -> None:
    renderer, scene = grid_ball(), made_scene()
    for settings in (Mesh(voxels=200_000, faces=8000), Mesh(surface="density", voxels=200_000, faces=8000)):
        mesh = settings.extract(RunFields(scene, renderer, None, torch.device("cpu")))
        check_against_renders(mesh, renderer, scene)


@pytest.mark.parametrize("space", [BOX, NDC_SPACE])
def test_what_views_see_of_a_ball_is_its_front(space: Space) -> None:
    """On the sphere, turned to the cameras, in its colours; open behind, where no view looks."""
    fields = ball(space, sharpness=400.0)
    mesh = SEEN.extract(fields)
    assert not mesh.is_watertight and mesh.is_winding_consistent
    front = (mesh.vertices - CENTRE.numpy())[:, 2] > 0
    radii = distances(mesh.vertices)[front]
    assert (
        front.mean() > 0.75
        and np.abs(np.median(radii) - RADIUS) < 0.02
        and (np.abs(radii - RADIUS) < 0.03).mean() > 0.95
    )
    outwards = (mesh.vertices - CENTRE.numpy()) / distances(mesh.vertices)[:, None]
    assert np.median((outwards * mesh.vertex_normals).sum(axis=1)[front]) > 0.97
    inner = (mesh.vertices - CENTRE.numpy())[:, 2] > 0.7 * RADIUS  # its rim takes in some of what is behind
    expected = colours(torch.tensor(mesh.vertices)).numpy() * 255
    assert np.abs(levels(mesh) - expected)[inner].mean() < 4
    assert (mesh.vertices[:, 2] > -RADIUS).all()


def test_a_fog_that_is_opaque_in_its_depth_alone_is_a_surface() -> None:
    """A wall that came back as fog: no level of its density finds it, but all views see it."""
    fields = ball(sharpness=400.0)
    fog = Fog(0.5, 4.0)
    foggy = RunFields(fields.scene, renderer_of(fog, fields.scene.bounds), None, fields.device)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nowhere as dense"):
        COARSE.extract(foggy)
    mesh = SEEN.extract(foggy)
    # From z = 0.5 on, half the light is left after log(2) / 4, its mean way is 1 / 4; rays at right angles go deepest
    z = mesh.vertices[np.abs(mesh.vertices[:, :2]).max(axis=1) < 0.4, 2]
    assert abs(np.median(z) - (0.5 - 0.24)) < 0.03


@pytest.mark.parametrize(
    "odd", [{"opacity": 1.0}, {"faces": -1}, {"voxels": 0}, {"smallest": 2}, {"voxels": 10**12}]
)
def test_settings_have_bounds(odd: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(odd))):
        Mesh(**odd)
