"""A capture as a whole: the cameras that it finds are those that the pictures were taken with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ids3d.capture.__main__ import main
from ids3d.capture.run import Settings, capture
from ids3d.cli import run_command
from ids3d.config import find_config
from ids3d.experiment import load
from ids3d.progress import Progress
from ids3d.systems.scene_run import run
from tests.capture.alignment import distances
from tests.capture.films import write_film
from tests.capture.made_scene import cameras_of, render, write_photographs

colmap = pytest.importorskip("pycolmap", reason="needs the extra [capture]")

pytestmark = pytest.mark.slow

WITHIN = 0.02  # of the extent of the cameras


def centres_of(scene: Path) -> dict[str, np.ndarray]:
    """Camera centres by what the report calls the pictures."""
    told = json.loads((scene / "transforms.json").read_text())
    pictures = json.loads((scene / "work" / "pictures" / "pictures.json").read_text())["pictures"]
    sources = {Path(picture["name"]).stem: picture["source"] for picture in pictures}
    return {
        sources[Path(frame["file_path"]).stem]: np.array(frame["transform_matrix"])[:3, 3]
        for frame in told["frames"]
    }


def assert_near(scene: Path, given: dict[str, np.ndarray], share: float = 0.9) -> None:
    """So much of the given cameras was found, all within 2 %; and the folder is what other tools take."""
    found = centres_of(scene)
    assert len(found) >= share * len(given)
    both = np.array([(found[name], given[name]) for name in found])
    away = distances(both[:, 0], both[:, 1])
    print(
        f"{len(found)} of {len(given)} cameras, {away.mean():.2%} away in the mean, {away.max():.2%} at most"
    )
    assert away.max() < WITHIN
    told = json.loads((scene / "transforms.json").read_text())
    model = colmap.Reconstruction(scene / "sparse" / "0")
    assert {image.name for image in model.images.values() if image.has_pose} == {
        Path(frame["file_path"]).name for frame in told["frames"]
    }
    assert (scene / told["ply_file_path"]).read_bytes().startswith(b"ply")
    for frame in told["frames"]:
        with Image.open(scene / frame["file_path"]) as image:
            held = {**told, **frame}
            assert image.size == (held["w"], held["h"])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "photographs"
    write_photographs(folder, render(cameras_of(10)))
    return folder


@pytest.fixture(scope="module")
def whole(photographs: Path) -> Path:
    """The scene of the photographs, made without a stop."""
    capture(photographs, photographs.parent / "whole", Settings())
    return photographs.parent / "whole"


def test_photographs_of_a_made_scene(whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    truth = cameras_of(10)
    assert_near(whole, {f"{k:03d}.jpg": c.numpy() for k, c in enumerate(truth.centres)}, share=1.0)
    told = json.loads((whole / "transforms.json").read_text())
    assert told["fl_x"] == pytest.approx(float(truth.fx[0]), rel=0.02)
    made = (whole / "transforms.json").stat().st_mtime_ns
    words = [str(whole.parent / "photographs"), "--out", str(whole), "--threads", "1"]
    assert run_command(main, words) == 0  # all is there already
    said = capfd.readouterr()
    assert (whole / "transforms.json").stat().st_mtime_ns == made
    assert said.err == "" and "10 of 10 pictures (100 %)" in said.out
    assert len(said.out.splitlines()) < 20


@pytest.mark.parametrize(
    ("step", "threads"), [(5, 1), (25, 2), (50, 2), (80, 1), (92, 1)], ids=str
)  # looking at photographs, features, matches, cameras, undistortion
def test_a_stopped_capture_goes_on_to_the_same_bits(
    step: int,
    threads: int,
    photographs: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls, advance = [0], Progress.advance

    def stop(self: Progress, note: str = "") -> None:
        calls[0] += 1
        if calls[0] == step:
            raise KeyboardInterrupt
        advance(self, note)

    words = [str(photographs), "--out", str(tmp_path / "scene"), "--threads", str(threads)]
    with monkeypatch.context() as patched:
        patched.setattr(Progress, "advance", stop)
        assert run_command(main, words) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "scene" / "report.json").exists()
    assert run_command(main, words) == 0
    for name in ("transforms.json", "images/004.jpg", "sparse/0/points3D.bin"):
        assert (tmp_path / "scene" / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_film_of_a_made_scene(tmp_path: Path) -> None:
    cameras = cameras_of(60)
    write_film(tmp_path / "walk.mp4", render(cameras, 1))
    report = capture(tmp_path / "walk.mp4", tmp_path / "scene", Settings(max_frames=15))
    assert 10 <= len(report.pictures) <= 15
    given = {source: cameras.centres[round(float(source[:-2]) * 20)].numpy() for source in report.pictures}
    assert_near(tmp_path / "scene", given)


def given_capture(name: str) -> tuple[list[Path], np.ndarray]:
    """Photographs and given camera centres of a capture in LLFF's layout."""
    root = os.environ.get("IDS3D_CAPTURES", "")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"IDS3D_CAPTURES names no folder with {name} in it")
    folder = next(p for p in (Path(root) / name).iterdir() if p.name.startswith("images"))
    files = sorted(p for p in folder.iterdir() if p.suffix in (".png", ".jpg"))
    rows = np.load(Path(root) / name / "poses_bounds.npy")
    return files, rows[:, :15].reshape(-1, 3, 5)[:, :, 3]


CAPTURES = ["llff/fern", "llff/mold_gold_cape"]


def reconstructed(root: Path, outputs: Path) -> float:
    """PSNR over the held-out views of a scene at 128 pixels, by default settings."""
    words = [f"data.root={root}", "data.max_size=128", "stage=reconstruct", "tracking=none"]
    job = load([find_config("configs/ids-llff.yaml")], [*words, f"output={outputs}", f"tag={root.name}"])
    return float(run(job)["reconstruction/psnr"])


@pytest.mark.parametrize("name", CAPTURES)
def test_bare_photographs_of_a_real_scene(name: str, tmp_path: Path) -> None:
    files, centres = given_capture(name)
    capture(files[0].parent, tmp_path / "scene", Settings())
    assert_near(tmp_path / "scene", {file.name: c for file, c in zip(files, centres, strict=True)})
    found, given = (reconstructed(root, tmp_path) for root in (tmp_path / "scene", files[0].parent.parent))
    print(f"{found:.2f} dB by the cameras that were found, {given:.2f} by those given")
    assert found > given - 1


@pytest.mark.parametrize("name", CAPTURES)
def test_a_film_made_of_real_photographs(name: str, tmp_path: Path) -> None:
    files, centres = given_capture(name)
    pictures = (np.asarray(Image.open(file).convert("RGB")) for file in files)
    write_film(tmp_path / "walk.mp4", pictures, fps=2)
    report = capture(tmp_path / "walk.mp4", tmp_path / "scene", Settings(matcher="exhaustive"))
    assert len(report.pictures) >= 10
    given = {f"{k / 2:.2f} s": centre for k, centre in enumerate(centres)}
    assert_near(tmp_path / "scene", {source: given[source] for source in report.pictures})
