"""Exports of a run's folder by the command line: what comes out, and that what goes wrong leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
import trimesh

from ids3d import launch
from ids3d.camera_path import CameraPath, Keyframe
from ids3d.cameras import Cameras
from ids3d.errors import Interrupted, UserError
from ids3d.experiment import SceneJob, load
from ids3d.files import locked
from ids3d.systems.export.points import Points
from ids3d.systems.export_run import KINDS, export
from ids3d.systems.saved_run import load_run, read_reconstruction
from ids3d.systems.scene_phases import SceneRun
from ids3d.systems.scene_run import run
from ids3d.systems.stopping import GracefulStop
from tests.systems.conftest import CONFIG
from tests.systems.export.test_mesh import check_against_renders, levels

SMALL = {
    "mesh": ["voxels=20000", "opacity=0.05"],
    "points": ["opacity=0.05"],
    "video": ["size=16", "frames=3"],
    "nerfstudio": ["opacity=0.05"],
}


FOGGY = ("reconstruct.steps=60", "geometry.initial_alpha=0.02", "data.space=box")


@pytest.fixture(scope="session")
def edited(tiny_in: Callable[..., SceneJob], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    job = tiny_in(tmp_path_factory.mktemp("export"), *FOGGY)
    run(job)
    return job.folder


@pytest.fixture(scope="session")
def reconstructed(edited: Path, tiny_in: Callable[..., SceneJob]) -> Path:
    """The folder of a run that stopped before the edit, of the same reconstruction."""
    job = tiny_in(edited.parent.parent, *FOGGY, "stage=reconstruct", "tag=source")
    run(job)
    return job.folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_each_kind_from_the_command_line(edited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(edited)
    for kind, settings in SMALL.items():
        launch.main(["--export", str(edited), kind, *settings])
        assert f"results: {edited / 'exports' / kind}\n" in capsys.readouterr().out
    views = [f"{i:02d}.png" for i in range(10)]
    assert files(edited) - before == {
        "exports/mesh/mesh.ply",
        "exports/mesh/mesh.glb",
        "exports/mesh/mesh.json",
        "exports/points/points.ply",
        "exports/video/video.mp4",
        "exports/nerfstudio/transforms.json",
        "exports/nerfstudio/points.ply",
        *(f"exports/nerfstudio/{folder}/{view}" for folder in ("images", "depth") for view in views),
    }
    mesh = trimesh.load(edited / "exports" / "mesh" / "mesh.glb", force="mesh")
    low, high = load_run(edited).scene.bounds.aabb.double().numpy().reshape(2, 3)
    assert (mesh.vertices >= low - 1e-5).all() and (mesh.vertices <= high + 1e-5).all()


def test_a_film_has_the_frames_the_size_and_the_length_asked_for(edited: Path) -> None:
    place = export(edited, "video", ["size=33", "frames=12", "fps=6", "path=orbit"])
    video = place / "video.mp4"
    frames = iio.imread(video)
    assert frames.shape == (12, 32, 64, 3)  # two squares beside each other; even sides
    count, seconds = imageio_ffmpeg.count_frames_and_secs(video)
    assert count == 12 and seconds == pytest.approx(2.0, abs=0.01)
    assert iio.immeta(video)["fps"] == 6


def test_a_film_shows_the_source_beside_the_edit(edited: Path, tmp_path: Path) -> None:
    """Along a path that the viewer has saved, frame by frame against renders."""
    saved = load_run(edited)
    cameras = saved.scene.train.cameras
    path = CameraPath(tuple(Keyframe(cameras.c2w[i], 45.0) for i in (0, 3, 6)), seconds=1.0, fps=5)
    path.save(tmp_path / "path.json")
    place = export(edited, "video", ["size=64", f"path={tmp_path / 'path.json'}"])
    frames, meta = iio.imread(place / "video.mp4"), iio.immeta(place / "video.mp4")
    assert frames.shape == (6, 64, 128, 3) and meta["fps"] == 5
    expected: Cameras = path.cameras(64, 64)
    for i, renderer in ((5, saved.source), (5, saved.edited.renderer)):
        half = frames[i][:, :64] if renderer is saved.source else frames[i][:, 64:]
        assert np.abs(half / 255 - renderer.render(expected[i]).rgb.numpy()).mean() < 0.02
    place = export(
        edited, "video", ["size=64", f"path={tmp_path / 'path.json'}", "frames=4", "fps=3", "field=edited"]
    )
    assert iio.imread(place / "video.mp4").shape == (4, 64, 64, 3)
    assert iio.immeta(place / "video.mp4")["fps"] == 3


def test_a_run_that_stopped_before_the_edit_has_its_reconstruction_exported(
    edited: Path, reconstructed: Path
) -> None:
    source = export(edited, "points", ["field=source", "opacity=0.05"]) / "points.ply"
    assert (
        export(reconstructed, "points", ["opacity=0.05"]) / "points.ply"
    ).read_bytes() == source.read_bytes()
    assert iio.imread(export(reconstructed, "video", SMALL["video"]) / "video.mp4").shape == (3, 16, 16, 3)
    for kind, field in (("points", "edited"), ("video", "both")):
        with pytest.raises(UserError, match=f"field={field}: .* stopped before the edit: use field=source"):
            export(reconstructed, kind, [f"field={field}"])


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (["meshes"], ["unknown export meshes: did you mean mesh?"]),
        (["mesh", "face=1"], ["unknown key face (command line): did you mean faces?"]),
        (["mesh", "faces=many"], ["bad value for faces (command line)", "whole number"]),
        (["mesh", "opacity=1"], ["opacity=1.0 is not in [0.01, 0.99]"]),
        (["video", "fps=0"], ["fps=0 is not in [1, 240]"]),
        (["video", "path=nowhere.json"], ["nowhere.json cannot be read"]),
        (["points", "field=before"], ["bad value for field", "edited or source"]),
        (["points", "device=gpu"], ["device 'gpu'"]),
        (["mesh", "--test", "x"], ["not allowed with"]),
        (["mesh", "--overwrite"], ["--overwrite starts a run"]),
        (["mesh", "--view"], ["--export RUN KIND", "without --config and --view"]),
        ([], ["--export", "2 arguments"]),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    edited: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: list[str],
    parts: list[str],
) -> None:
    before = files(edited)
    monkeypatch.setattr("sys.argv", ["launch.py", "--export", str(edited), *line])
    capsys.readouterr()
    assert launch.command() == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and all(part in said for part in parts), said
    assert files(edited) == before


def test_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the folder of a run"):
        launch.main(["--export", str(tmp_path), "mesh"])
    assert not list(tmp_path.iterdir())


def test_an_export_replaces_the_former_one_only_when_it_is_whole(
    edited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = export(edited, "points", SMALL["points"])
    (place / "mine.txt").write_text("of the former one")
    former = {path.name: path.read_bytes() for path in place.iterdir()}

    def fails(self: Points, fields: object, folder: Path) -> str:
        (folder / "points.ply").write_text("a half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Points, "write", fails)
        with pytest.raises(UserError, match=r"points cannot be written \(No space left on device\)"):
            export(edited, "points", SMALL["points"])
    assert {path.name: path.read_bytes() for path in place.iterdir()} == former
    assert {path.name for path in place.parent.iterdir()} <= set(KINDS)
    export(edited, "points", SMALL["points"])
    assert [path.name for path in place.iterdir()] == ["points.ply"]


def test_a_stop_leaves_nothing(reconstructed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(reconstructed)
    monkeypatch.setattr(GracefulStop, "__enter__", lambda self: (setattr(self, "exit_code", 130), self)[1])
    for kind in KINDS:
        with pytest.raises(Interrupted, match="stopped: nothing was exported"):
            export(reconstructed, kind, SMALL[kind])
    assert files(reconstructed) == before


def test_a_run_that_is_being_written_is_left_alone(edited: Path) -> None:
    with locked(edited), pytest.raises(UserError, match=r"another process.*export it when it is finished"):
        export(edited, "points", SMALL["points"])


def test_settings_of_a_mesh_reach_it(edited: Path) -> None:
    few = export(edited, "mesh", [*SMALL["mesh"], "faces=500"])
    assert 0 < json.loads((few / "mesh.json").read_text())["faces"] <= 500
    assert json.loads((few / "mesh.json").read_text())["units"] == "scene"


def test_another_device_than_the_runs_is_refused_where_there_is_none(edited: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match="device=cuda, but PyTorch finds no CUDA device"):
        export(edited, "points", ["device=cuda"])


@pytest.mark.slow
@pytest.mark.parametrize(
    # auto: normalised device coordinates, in which 400,000 voxels are too coarse where the far floor meets the wall
    ("space", "size", "voxels"),
    [("box", 96, 400_000), ("auto", 128, 700_000)],
)
def test_a_mesh_of_the_sample_scene_agrees_with_its_reconstruction(
    tmp_path: Path, space: str, size: int, voxels: int
) -> None:
    settings = ["tracking=none", "tag=t", f"output={tmp_path}", "stage=reconstruct", f"data.space={space}"]
    settings += [f"data.max_size={size}", f"geometry.voxels={voxels}", "reconstruct.validate_every=0"]
    job = load([CONFIG], settings)
    assert isinstance(job, SceneJob)
    run(job)
    place = export(job.folder, "mesh", ["voxels=2000000"])
    mesh = trimesh.load(place / "mesh.ply", force="mesh", process=False)
    glb = trimesh.load(place / "mesh.glb", force="mesh", process=False)
    assert isinstance(mesh, trimesh.Trimesh) and isinstance(glb, trimesh.Trimesh)
    assert np.array_equal(mesh.vertices, glb.vertices) and np.array_equal(mesh.faces, glb.faces)
    assert np.array_equal(levels(mesh), levels(glb))
    figures = json.loads((place / "mesh.json").read_text())
    assert (
        figures["watertight"] == mesh.is_watertight and (figures["open_edges"] > 0) != figures["watertight"]
    )
    with GracefulStop() as stop:
        work = SceneRun(job, stop)
    bounds = work.scene.bounds
    low, high = bounds.aabb.double().reshape(2, 3)
    inside = bounds.space.coordinates(torch.tensor(mesh.vertices).double())
    assert (inside >= low - 1e-4).all() and (inside <= high + 1e-4).all()
    check_against_renders(mesh, read_reconstruction(work).renderer, work.scene)
