"""Commands in processes of their own say nothing on standard error but what is ours."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ids3d.experiment import SceneJob

ROOT = Path(__file__).resolve().parents[2]
TABLETOP = ROOT / "ids3d" / "weights" / "tabletop"
SAMPLE = ROOT / "ids3d" / "scenes" / "tabletop_llff"
OURS = re.compile(
    # the screen's labels and what goes on below them; a line of progress; what reading a scene says
    r"(data|cameras|space|field|prompts|prior|guidance|edit|device|output|time|memory) +\S.*| {10}\S.*"
    r"|[a-z][a-z, -]*: \d+/\d+ \[.* so far, .* left, .*\]"
    r"|\S+: (taken as|found) .*|ids-(llff|image)/\S+"
    r"|the reconstruction (is a blur|does not hold from elsewhere): .*"
)


def lines_of(tmp_path: Path, *words: str) -> list[str]:
    """What a command says on standard error, the file descriptor: of C libraries and of child processes too."""
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=tmp_path, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stderr and "\x1b" not in done.stderr + done.stdout
    return done.stderr.splitlines()


def test_a_run_over_a_scene(tiny: Callable[..., SceneJob], tmp_path: Path) -> None:
    """With the bundled prior and CLIP, which transformers and diffusers load, and a film, which ffmpeg makes."""
    job = tiny("edit=pictures", "edit.steps=1", "edit.rounds=1", "edit.fit_steps=2", "prior=tabletop")
    file = tmp_path / "job.yaml"
    text = job.to_yaml().replace("film_frames: 0", "film_frames: 2").replace("clip: null", "clip: tabletop")
    file.write_text(re.sub(r"  path: .*\n", "", text))
    lines = lines_of(tmp_path, str(ROOT / "launch.py"), "--config", str(file), "guidance=dds")
    foreign = [line for line in lines if not OURS.fullmatch(line)]
    assert foreign == []
    for phase in ("reconstructing", "held-out views", "editing", "evaluating", "film"):
        assert any(line.startswith(f"{phase}: ") for line in lines), phase


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["-m", "ids3d.tabletop", "cosines", "--size", "32", "--scenes", "1", "--prior", str(TABLETOP)],
        ["-m", "ids3d.bench", "images", "--quick", "--edits", "1", "--methods", "dds", "--out", "bench"],
        [
            "-m",
            "ids3d.tabletop",
            "evaluate",
            "--json",
            "f.json",
            "--only",
            "samples",
            "--prompts",
            "2",
            "--steps",
            "1",
        ],
    ],
)
def test_other_commands_that_load_models(tmp_path: Path, words: list[str]) -> None:
    foreign = [line for line in lines_of(tmp_path, *words) if not re.search(r": \d+/\d+ \[.*left", line)]
    assert foreign == []
