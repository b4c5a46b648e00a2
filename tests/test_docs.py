"""Every command and every setting that the README and the docs name is parsed as a user's would be."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path

import pytest

from ids3d import launch
from ids3d.bench.__main__ import make_parser as bench_parser
from ids3d.capture.__main__ import parser as capture_parser
from ids3d.errors import UserError
from ids3d.experiment import load
from ids3d.systems.export_run import settings_of
from ids3d.systems.settings import all_kinds, groups
from ids3d.systems.settings_page import help_on
from ids3d.tabletop.__main__ import parser as tabletop_parser

ROOT = Path(__file__).parent.parent
# ids3d/: what the site shows too.
PAGES = sorted(
    file.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "docs/**/*.md", "ids3d/scenes/*.md", "ids3d/weights/tabletop/*.md")
    for file in ROOT.glob(pattern)
)
JOBS = ("configs/ids-llff.yaml", "configs/ids-image.yaml", "configs/tabletop/unet.yaml")
COMMAND = re.compile(
    r"(?:python launch\.py|(?<=\s)launch\.py|(?<![\w/])ids3d(?= --)|python -m (ids3d[.\w]*))(.*)"
)
IS_OVERRIDE = re.compile(r"[A-Za-z_][\w.-]*=")


def blocks(page: str) -> list[str]:
    """The logical lines of a page's code blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^( *)```\w*\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [line for _, block in found for line in block.replace("\\\n", " ").splitlines()]


def spans(page: str) -> list[str]:
    """The code within a page's sentences, on one line each."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands(page: str) -> list[tuple[str, list[str]]]:
    """Each command line of ours on a page: the module that it starts, and the words behind."""
    found = []
    for line in [*blocks(page), *spans(page)]:
        match = COMMAND.search(line)
        if match and "${" not in match[2]:
            found.append((match[1] or "launch", shlex.split(match[2], comments=True)))
    for words in re.findall(r"what=\((--config[^)]*)\)", (ROOT / page).read_text(encoding="utf-8")):
        found.append(("launch", shlex.split(words.replace("$SLURM_JOB_ID", "7"))))
    return found


ALL = [(page, module, words) for page in PAGES for module, words in commands(page)]


def test_pages_and_commands_are_found() -> None:
    assert {"README.md", "docs/guides/phone.md", "docs/settings.md", "docs/results/README.md"} <= set(PAGES)
    assert len(ALL) > 50
    assert {module for _, module, _ in ALL} >= {"launch", "ids3d.capture", "ids3d.bench", "ids3d.tabletop"}
    phone = [words for page, module, words in ALL if page.endswith("phone.md") and module == "launch"]
    assert len(phone) == 5 and "prompt.target=a potted plant with red leaves on a table" in phone[2]
    assert ["--config", "configs/ids-llff.yaml", "devices=4", "nodes=2", "output=/shared/outputs"] in (
        words for page, _, words in ALL if page == "docs/clusters.md"
    )


@pytest.mark.parametrize(
    ("page", "module", "words"), [pytest.param(*c, id=f"{c[0]}: {c[1]} {' '.join(c[2])}"[:120]) for c in ALL]
)
def test_a_command_is_understood(
    page: str, module: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if module == "launch":
        understand_launch(words)
    elif module == "ids3d.systems.settings_page" or not words:  # named, as a whole
        assert (ROOT / f"{module.replace('.', '/')}" / "__main__.py").is_file()
    elif module == "ids3d.bench":
        overrides = [word for word in words if IS_OVERRIDE.match(word)]
        bench_parser().parse_args([word for word in words if word not in overrides])
        load([JOBS[0]], overrides).check()
    else:
        parsers = {"ids3d.capture": capture_parser, "ids3d.tabletop": tabletop_parser}
        parsers[module]().parse_args(words)


def understand_launch(words: list[str]) -> None:
    """What launch.py does with a command line until it would touch a scene or a run. Raises UserError."""
    if "--help" in words:
        key = words[words.index("--help") + 1]
        assert key == "KEY" or help_on(key)
        return
    arguments = launch.parse_arguments(words)
    if arguments.files:
        load(arguments.files, arguments.overrides).check()
    elif arguments.export and arguments.export[1] != "KIND":
        settings_of(arguments.export[1], arguments.overrides)


def typed(page: str) -> list[str]:
    """Each `key=value` that a page names within its sentences and tables."""
    words = [
        word
        for span in spans(page)
        if not COMMAND.search(span) and IS_OVERRIDE.match(span)
        for word in shlex.split(span)
        if IS_OVERRIDE.match(word) and word != "key=value"
    ]
    return list(dict.fromkeys(words))


# Not the records of what was measured and trained, with the settings of then.
SETTINGS = [
    (page, word)
    for page in PAGES
    if not page.startswith(("ids3d/weights/", "docs/results/"))
    for word in typed(page)
    if not word.endswith("=my_guidance:Half")  # test_readme.py makes that one
]
EXPORTS = ("mesh", "points", "video", "nerfstudio")


def test_settings_are_found() -> None:
    assert ("README.md", "edit.region=difference") in SETTINGS and len(SETTINGS) > 40


@pytest.mark.parametrize(("page", "word"), SETTINGS)
def test_a_setting_that_a_page_names_is_one(page: str, word: str) -> None:
    key, _, value = word.partition("=")
    if re.fullmatch(r"(…|\.\.\.|[A-Z])?", value):  # to be filled in
        settings = [
            s for g in groups(all_kinds()) for s in (*g.common, *(s for t in g.types for s in t.settings))
        ]
        assert key in {setting.key for setting in settings}
        return
    faults = []
    for check in (
        *(partial(check_override, job) for job in JOBS),
        *(partial(settings_of, kind) for kind in EXPORTS),
    ):
        try:
            check([word])
            return
        except UserError as error:
            faults.append(str(error))
    pytest.fail("; ".join(faults))


def check_override(config: str, overrides: list[str]) -> None:
    load([config], overrides).check()
