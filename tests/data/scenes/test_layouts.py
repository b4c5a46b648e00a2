"""A tabletop scene, written in each layout, read back: cameras, rays, pictures, truth, and what `auto` takes it for."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ids3d.cameras import Cameras, project
from ids3d.data.scenes.auto import Auto
from ids3d.lenses import Distortion, Fisheye, RadialTangential
from ids3d.metrics import psnr
from ids3d.registry import find
from ids3d.scene import Scene
from ids3d.space import BOX
from ids3d.tabletop.edits import recolour, render_edit
from ids3d.tabletop.folders import write_blender, write_colmap, write_llff, write_transforms
from ids3d.tabletop.render import render
from ids3d.tabletop.scene import HELD_OUT, around_cameras, forward_cameras, sample_scene
from ids3d.tabletop.world import FORMER
from tests.test_lenses import opencv, opencv_fisheye

EDIT = recolour(sample_scene(HELD_OUT + 10, world=FORMER), 0, "red")
SIZE, VIEWS, SAMPLES = 32, 9, 2
BENT, FISHEYE = RadialTangential(-0.15, 0.03, 0.002, -0.001), Fisheye(0.02, 0.003)


@dataclass(frozen=True)
class Written:
    """A scene as it was written, and as it was read."""

    root: Path
    layout: str
    cameras: Cameras
    distortion: Distortion | None
    scene: Scene

    def both(self) -> list[tuple[bool, Cameras, Cameras, Tensor]]:
        """(held out, cameras as written, as read, images) of each split."""
        order = torch.arange(VIEWS)
        out = order >= 6 if self.layout == "blender" else order % 8 == 0
        read = self.scene
        return [
            (held, self.cameras[order[out == held]], views.cameras, views.images)
            for held, views in ((False, read.train), (True, read.test))
        ]


CASES = {
    "llff": ("llff", None),
    "blender": ("blender", None),
    "transforms": ("transforms", None),
    "transforms-bent": ("transforms", BENT),
    "transforms-fisheye": ("transforms", FISHEYE),
    "colmap-text": ("colmap", None),
    "colmap-text-bent": ("colmap", BENT),
    "colmap-binary-bent": ("colmap", BENT),
    "colmap-binary-fisheye": ("colmap", FISHEYE),
}


@pytest.fixture(scope="module", params=CASES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    name = request.param
    layout, distortion = CASES[name]
    root = tmp_path_factory.mktemp("scenes") / name
    cameras = (around_cameras if layout == "blender" else forward_cameras)(1, VIEWS, SIZE)
    if layout == "llff":
        write_llff(root, EDIT, cameras, SAMPLES)
    elif layout == "blender":
        write_blender(root, EDIT, {"train": cameras[:6], "test": cameras[6:]}, SAMPLES)
    elif layout == "transforms":
        write_transforms(root, EDIT, cameras, SAMPLES, distortion)
    else:
        pycolmap = pytest.importorskip("pycolmap")
        write_colmap(root, EDIT, cameras, SAMPLES, distortion)
        if "binary" in name:
            model = root / "sparse" / "0"
            pycolmap.Reconstruction(str(model)).write_binary(str(model))
            for file in model.glob("*.txt"):
                file.unlink()
    return Written(root, layout, cameras, distortion, Auto(Auto.Config(root=str(root))).load())


def test_cameras_come_back(written: Written) -> None:
    moved = written.scene.to_scene
    for _, truth, read, _ in written.both():
        centres = moved.undo(read.centres)
        turned = moved.rotation.float().T @ read.c2w[:, :, :3]
        scale = float((truth.centres - truth.centres.mean(0)).norm(dim=-1).max())
        assert (centres - truth.centres).abs().max() < 1e-5 * scale
        assert (turned - truth.c2w[:, :, :3]).abs().max() < 1e-5
        assert (read.height, read.width) == (SIZE, SIZE)
        if written.distortion is None:
            for name in ("fx", "fy", "cx", "cy"):
                assert (getattr(read, name) - getattr(truth, name)).abs().max() < 1e-4


def test_points_land_where_the_lens_shows_them(written: Written) -> None:
    """Points of the room: their pixels in the images as read, bent as OpenCV's formulas say, are those of the files."""
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) * 0.6 - 0.3
    for _, truth, read, _ in written.both():
        pixels, _ = project(read, written.scene.to_scene.apply(points))
        plane = (pixels - torch.stack([read.cx, read.cy], -1)[:, None]) / torch.stack([read.fx, read.fy], -1)[
            :, None
        ]
        ahead, _ = project(
            replace(truth, fx=truth.fx**0, fy=truth.fy**0, cx=truth.cx * 0, cy=truth.cy * 0), points
        )
        found, expected = (bent(xy, written.distortion) for xy in (plane, ahead))
        assert ((found - expected) * truth.fx[:, None, None]).abs().max() < 0.01


def bent(xy: Tensor, distortion: Distortion | None) -> Tensor:
    formula = {RadialTangential: opencv, Fisheye: opencv_fisheye}.get(type(distortion))
    if formula is None:
        return xy
    return torch.tensor([[formula(distortion, *place) for place in view] for view in xy.double().tolist()])  # type: ignore[arg-type]


def test_pictures_come_back(written: Written) -> None:
    for held_out, truth, read, images in written.both():
        for i in range(len(truth)) if held_out else range(2):
            if written.distortion is not None:  # against a render by a camera without distortion
                straight = replace(truth[i], fx=read.fx[i : i + 1], fy=read.fy[i : i + 1])
                assert psnr(images[i], render(EDIT.before, straight, supersampling=3).rgb) > 31
                continue
            seen = render(EDIT.before, truth[i], supersampling=SAMPLES, room=written.layout != "blender")
            expected = seen.rgb + 1 - seen.opacity[..., None] if written.layout == "blender" else seen.rgb
            assert (images[i] - expected).abs().max() <= (1.2 if written.layout == "blender" else 0.51) / 255


def test_captions_and_truth_come_back(written: Written) -> None:
    scene, truth = written.scene, written.scene.truth
    assert scene.captions == (EDIT.source, EDIT.target)
    assert truth is not None
    _, cameras, read, _ = written.both()[1]
    for i in range(len(cameras)):
        if written.distortion is not None:
            straight = replace(cameras[i], fx=read.fx[i : i + 1], fy=read.fy[i : i + 1])
            view = render_edit(EDIT, straight, 3)
            assert psnr(truth.images[i], view.after.rgb) > 31
            assert (truth.masks[i] != view.mask).float().mean() < 0.05  # a pixel at the edges
        else:
            view = render_edit(EDIT, cameras[i], SAMPLES, room=written.layout != "blender")
            assert torch.equal(truth.masks[i], view.mask)


def test_what_is_seen_lies_in_the_box(written: Written) -> None:
    """All surfaces, but for those that few points are of: the depths are percentiles of points, with margins."""
    scene = written.scene
    for _, truth, _, _ in written.both():
        seen = render(EDIT.before, truth[0], supersampling=1, room=written.layout != "blender")
        rays = truth[0].rays()
        met = seen.depth.isfinite()
        points = (rays.origins[0] + seen.depth[..., None] * rays.directions[0])[met]
        placed = scene.bounds.space.coordinates(scene.to_scene.apply(points))
        inside = ((placed > scene.bounds.aabb[:3]) & (placed < scene.bounds.aabb[3:])).all(dim=-1)
        distance = seen.depth[met] * scene.to_scene.scale
        assert inside.float().mean() > 0.97
        assert (distance > scene.bounds.near).float().mean() > 0.99 and (distance < scene.bounds.far).all()
        if scene.bounds.space == BOX:
            assert float((scene.bounds.aabb[3:] - scene.bounds.aabb[:3]).max()) == pytest.approx(2, rel=1e-5)


def test_auto_says_what_it_took_and_reads_what_the_format_reads(
    written: Written, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"root": str(written.root), "max_size": 20, "recentre": False}
    with caplog.at_level(logging.INFO):
        scene = Auto(Auto.Config(**settings)).load()
    assert f"taken as {written.layout}, for its " in caplog.text and all(
        "\n" not in record.getMessage() for record in caplog.records
    )
    named = find("scene", written.layout)
    assert scene.digest == named(named.Config(**settings)).load().digest
    assert scene.train.images.shape[1:3] == (20, 20)
    assert scene.to_scene.rotation.tolist() == torch.eye(3).tolist()


def test_layouts_agree_on_what_is_held_out(written: Written) -> None:
    names = written.scene.test.names
    assert names == (("r_0", "r_1", "r_2") if written.layout == "blender" else ("000", "008"))
    if written.layout == "transforms":
        said = json.loads((written.root / "transforms.json").read_text())
        assert (
            said["camera_model"]
            == {None: "PINHOLE", BENT: "OPENCV", FISHEYE: "OPENCV_FISHEYE"}[written.distortion]
        )
