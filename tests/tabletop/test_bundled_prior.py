"""The prior that ships: a Stable Diffusion folder like any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ids3d.tabletop.evaluate import PRIOR

SCRIPT = """
import sys
sys.path = [p for p in sys.path if p]
import torch
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1])
picture = pipeline("a red cube on a pink floor", num_inference_steps=2, output_type="np").images[0]
assert picture.shape == (128, 128, 3), picture.shape
assert picture.std() > 0.02
mine = [name for name in sys.modules if name.split(".")[0] in ("ids3d", "models", "systems", "data")]
assert not mine, mine
print("sampled")
"""

needs_prior = pytest.mark.skipif(not (PRIOR / "model_index.json").is_file(), reason="no prior is bundled yet")


@needs_prior
def test_it_samples_without_this_project(tmp_path: Path) -> None:
    # -I: neither the current folder nor PYTHONPATH; what site-packages maps to this checkout is not imported.
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT, str(PRIOR)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sampled" in done.stdout


@needs_prior
def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in PRIOR.rglob("*") if path.is_file()) < 25_000_000
