"""The command line: a user's mistake is one line and exit code 2, and nothing is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from ids3d.capture.__main__ import main
from ids3d.cli import run_command
from ids3d.files import locked

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for k in range(6):
        Image.new("RGB", (64, 48), (40 * k, 0, 0)).save(folder / f"{k}.jpg")
    return folder


def fails(words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Run it, see it fail as it should, and return what it said."""
    assert run_command(main, [str(word) for word in words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    line = said.err.splitlines()[-1]
    assert line.startswith("error: ") and "Traceback" not in said.err
    return line


def test_without_pycolmap_the_extra_is_named(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert "pip install -e '.[capture]'" in fails(
        [photographs, "--out", photographs.parent / "scene"], capsys
    )
    assert not (photographs.parent / "scene").exists()


def test_sources_that_are_none(tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycolmap", reason="needs the extra [capture]")
    out = tmp_path / "scene"
    assert "there is no" in fails([tmp_path / "none.mp4", "--out", out], capsys)
    (tmp_path / "text.mp4").write_text("no film")
    assert "cannot be read as a video" in fails([tmp_path / "text.mp4", "--out", out], capsys)
    assert "--max-frames 4: at least 5" in fails([photographs, "--out", out, "--max-frames", 4], capsys)
    (tmp_path / "empty").mkdir()
    assert "holds 0 photographs: at least 5" in fails([tmp_path / "empty", "--out", out], capsys)
    (tmp_path / "text.mp4").unlink()
    assert f"did you mean {photographs}?" in fails([tmp_path, "--out", out], capsys)
    (tmp_path / "empty" / "walk.mov").write_bytes(b"")
    assert "did you mean the video" in fails([tmp_path / "empty", "--out", out], capsys)
    assert not out.exists()


def test_nothing_of_the_user_s_is_written_over(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycolmap", reason="needs the extra [capture]")
    assert "folder of the photographs" in fails([photographs, "--out", photographs], capsys)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "notes.txt" in fails([photographs, "--out", tmp_path / "mine"], capsys)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    with locked(tmp_path / "scene" / "work"):
        assert "another process" in fails([photographs, "--out", tmp_path / "scene"], capsys)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in fails([photographs, "--out", tmp_path / "file"], capsys)


def test_pictures_that_show_nothing_register_nothing(
    photographs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycolmap", reason="needs the extra [capture]")
    words = [str(photographs), "--out", str(tmp_path / "scene"), "--threads", "1"]
    assert run_command(main, words) == 2
    said = capfd.readouterr().err  # of the whole process: COLMAP's own lines would be here too
    assert "error: no cameras were found" in said.splitlines()[-1]
    allowed = ("looking at", "reading", "finding", "matching", "0 of 6 pictures hang together", "error:")
    assert not [line for line in said.splitlines() if not line.startswith(allowed)]
    assert not (tmp_path / "scene" / "transforms.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.mp4"], "--out"),
        (["a.mp4", "--out", "b", "--max-size", "3"], "64 to 16384"),
        (["a.mp4", "--out", "b", "--camera-model", "round"], "SIMPLE_RADIAL"),
        (["a.mp4", "--out", "b", "--matcher", "all"], "exhaustive"),
        (["a\0.mp4", "--out", "b"], r"there is no a\x00.mp4"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in fails(list(words), capsys)


def test_sigterm_ends_it_without_a_stack_trace() -> None:
    pytest.importorskip("pycolmap", reason="needs the extra [capture]")
    code = "import os, signal; from ids3d.capture.colmap import pycolmap; pycolmap(); "
    code += "os.kill(os.getpid(), signal.SIGTERM)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")


def test_text_can_be_drawn_after_it() -> None:
    """Loaded before Pillow's, the libraries in the wheel of pycolmap 4.2.1 corrupt memory."""
    pytest.importorskip("pycolmap", reason="needs the extra [capture]")
    code = """
from ids3d.capture.colmap import pycolmap
pycolmap()
from matplotlib import pyplot
for _ in range(3):
    figure, axes = pyplot.subplots(1, 4, figsize=(18, 5))
    axes[0].scatter(range(3000), range(3000), s=2)
    figure.tight_layout()
    figure.savefig("figure.png", dpi=60)
"""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
        )
    assert (done.returncode, done.stderr) == (0, "")
