"""The bars that CI holds the main job to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GOOD = {
    "reconstruction/psnr": 30.0,
    "source/psnr_inside": 12.0,
    "edit/psnr_inside": 17.5,
    "edit/psnr_outside": 28.0,
    "edit/clip_improved": 1.0,
    "time/total_seconds": 400.0,
    "memory/peak_gb": 2.0,
}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, None),
        ({"reconstruction/psnr": 27.9}, "reconstruction/psnr = 27.9"),
        ({"edit/psnr_inside": None}, "source/psnr_inside = missing"),
        ({"source/psnr_inside": 12.6}, "edit/psnr_inside - source/psnr_inside = 4.9"),
        ({"edit/psnr_outside": 26.9}, "edit/psnr_outside = 26.9"),
        ({"edit/clip_improved": None}, "edit/clip_improved = missing"),
        ({"time/total_seconds": 601}, "time/total_seconds"),
    ],
)
def test_figures_are_held_to_the_bars(
    tmp_path: Path, change: dict[str, float | None], complaint: str | None
) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps({**GOOD, **change}))
    command = [sys.executable, str(ROOT / ".ci/check_figures.py"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == (1 if complaint else 0)
    assert (complaint or "") in done.stderr
    file.unlink()
    assert "does not exist" in subprocess.run(command, capture_output=True, text=True).stderr
