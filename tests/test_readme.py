"""What the README tells people to type is what CI or a test runs, and what it points at is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ids3d.models.guidance.dds import DDS
from ids3d.registry import find
from tests import tiny_sd

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN_BY = "\n".join(
    file.read_text(encoding="utf-8")
    for file in [ROOT / ".ci/run", ROOT / "Makefile", *sorted((ROOT / "tests").rglob("test_*.py"))]
)
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.partition("#")[0].strip()
]


def test_nobody_is_sent_to_an_index() -> None:
    """ids3d is on none: its extras are installed from the checkout."""
    rooms = ("bench", "data", "ids3d", "models", "systems", "tests")
    told = [*ROOT.glob("*.py"), *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    told += [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    asks = re.compile(r"pip install [\"'\s]*ids3d")
    assert len(told) > 200
    assert [str(file) for file in told if asks.search(file.read_text(encoding="utf-8"))] == []


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_run_by_ci_or_a_test(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^make {words[1]}\b", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    else:
        assert words[:3] == ["python", "launch.py", "--config"]
        assert all(repr(word).replace("'", '"') in RUN_BY or word in RUN_BY for word in words[2:])


def test_configs_and_folders_that_it_names_are_there() -> None:
    for path in re.findall(
        r"\bconfigs/[\w/-]+\.yaml|`((?:ids3d|models|data|systems|bench|tests|configs)/)`", README
    ):
        assert not path or (ROOT / path).is_dir()
    for path in re.findall(r"configs/[\w/-]+\.yaml", README):
        assert (ROOT / path).is_file()


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
)
def test_what_a_page_links_to_is_there(page: str) -> None:
    file = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        if "://" in target:
            continue
        there = file.parent / path if path else file
        assert there.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}, target


def example(index: int) -> str:
    """The README's index-th Python example."""
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)[index]


def test_its_guidance_works_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_guidance.py").write_text(example(0))
    monkeypatch.syspath_prepend(tmp_path)
    half = find("guidance", "my_guidance:Half")
    prior, z = tiny_sd.prior(), torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = prior.embed(["a red cube"]), prior.embed(["a blue cube"])
    ours, dds = (
        method(method.Config(), prior)(z[0], z[1], *prompts, torch.Generator().manual_seed(1)).grad
        for method in (half, DDS)
    )
    assert torch.allclose(ours, dds / 2) and float(dds.norm()) > 0
    lines = [line for line in example(0).splitlines() if line and "import" not in line]
    assert len(lines) <= 15


def test_its_loop_runs() -> None:
    names: dict[str, Any] = {}
    exec(compile(example(1), "README.md", "exec"), names)
    assert names["edited"].shape == (1, 3, 128, 128)
    assert not torch.equal(names["z_trg"], names["z_src"])
    # Nothing of it needs Lightning or a config file.
    code = "import ids3d.models.guidance.ids, ids3d.models.priors.tabletop, sys; "
    code += "assert 'pytorch_lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_its_picture_command(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "launch.py",
        "--config",
        "configs/ids-image.yaml",
        f"output={tmp_path}",
        "edit.steps=3",
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert len(list(tmp_path.rglob("edited.png"))) == 1
