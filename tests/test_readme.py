"""What the README tells people to type is what CI or a test runs, and what it points at is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

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
        r"\bconfigs/[\w/-]+\.yaml|`((?:ids3d|models|data|systems|tests|configs)/)`", README
    ):
        assert not path or (ROOT / path).is_dir()
    for path in re.findall(r"configs/[\w/-]+\.yaml", README):
        assert (ROOT / path).is_file()
