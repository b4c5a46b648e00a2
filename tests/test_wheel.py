"""ids3d as a wheel, in an environment of its own, beside folders of somebody else's called models/ and data/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP = ("ids3d", "models", "data", "systems", "bench", "configs", "launch.py")
PACKAGED = (*TOP, "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")

pytestmark = pytest.mark.slow


def run(command: Sequence[str | Path], folder: Path) -> str:
    """What the command prints, run in `folder` with nothing added to the Python path."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(list(command), cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A wheel and a source distribution of a copy of the checkout, so that no build/ is left in it."""
    tree, dist = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, tree / name)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(dist)!r})"
    run([sys.executable, "-c", code], tree)
    pip = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", dist]
    run(pip, tree)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def environment(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of an environment that holds the wheel; its dependencies are those of the tests' own environment.

    Their folder comes last on its path, and .pth files in it, such as an editable ids3d's, are not followed.
    """
    place = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", place], place)
    python = place / "bin" / "python"
    install = ["install", "--no-deps", "--no-index", built.wheel]
    run([sys.executable, "-m", "pip", "--python", python, *install], place)
    site = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], place).strip()
    folders = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (Path(site) / "dependencies.pth").write_text("".join(f"{folder}\n" for folder in folders))
    return place / "bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with packages of somebody else's that are called like ours."""
    for name in TOP:
        if name not in ("ids3d", "configs", "launch.py"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('not ids3d: {name}')\n")
    (tmp_path / "launch.py").write_text("raise RuntimeError('not ids3d: launch')\n")
    return tmp_path


def source_files() -> set[str]:
    """Every file that ids3d consists of, by its path in an installed package."""
    found = set()
    for name in TOP:
        place = ROOT / name
        for file in [place] if place.is_file() else place.rglob("*"):
            if file.is_file() and not file.is_symlink() and "__pycache__" not in file.parts:
                path = file.relative_to(ROOT).as_posix()
                found.add(path if name == "ids3d" else f"ids3d/{path}")
    return found


def test_the_wheel_holds_one_package_with_all_of_it(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == source_files()


def test_the_source_distribution_holds_files_in_place_of_links(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        members = sdist.getmembers()
    assert all(member.isfile() or member.isdir() for member in members)
    assert {member.name.partition("/")[2] for member in members} >= source_files()


def test_what_is_imported_is_the_wheels(environment: Path, folder: Path) -> None:
    code = "import ids3d; from ids3d.models.guidance.ids import IDS; print(ids3d.__file__)"
    found = Path(run([environment / "python", "-c", code], folder).strip())
    assert found.is_relative_to(environment.parent)
    assert "python -m ids3d.bench" in run([environment / "python", "-m", "ids3d.bench", "--help"], folder)


def test_it_edits_an_image(environment: Path, folder: Path) -> None:
    run([environment / "ids3d", "--config", "configs/ids-image.yaml", "edit.steps=3"], folder)
    assert len(list((folder / "outputs" / "ids-image" / "ids").rglob("edited.png"))) == 1


def test_it_reconstructs_edits_and_evaluates_a_scene(environment: Path, folder: Path) -> None:
    field = "data.max_size=48 geometry.voxels=4096 renderer.steps=64 reconstruct.rays_per_step=256"
    steps = "reconstruct.steps=20 edit.rounds=1 edit.steps=2 edit.fit_steps=2 edit.validate_every=0"
    film = "evaluate.film_frames=2 evaluate.film_size=48"
    words = f"tag=t tracking=none {field} {steps} {film}".split()
    run([environment / "ids3d", "--config", "configs/ids-llff.yaml", *words], folder)
    made = folder / "outputs" / "ids-llff" / "t"
    figures = json.loads((made / "metrics.json").read_text())
    assert figures["reconstruction/psnr"] > 5 and figures["edit/psnr_outside"] > 5
    assert (made / "video.mp4").is_file() and (made / "checkpoints" / "last.safetensors").is_file()
    (start,) = json.loads((made / "provenance.json").read_text())
    assert start["git"] is None
