"""Every setting that there is, is on the page and in --help, with a text, and with what parsing holds it to."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ids3d import launch
from ids3d.config import parse, read_overrides
from ids3d.config.describing import Setting, describe
from ids3d.errors import UserError
from ids3d.experiment import ImageEvaluation, ImageJob, Job, SceneJob, TrainingJob, load, module_fields
from ids3d.registry import KINDS, find, names
from ids3d.systems.export_run import KINDS as EXPORTS
from ids3d.systems.settings import Group, all_kinds, groups, kinds_by_key
from ids3d.systems.settings_page import help_on, page

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
CONFIGS = [
    "configs/ids-llff.yaml",
    "configs/ids-image.yaml",
    *(f"configs/tabletop/{name}.yaml" for name in ("clip", "unet", "vae")),
]
CLASSES: dict[str, Any] = {
    **{f"{kind} {name}": find(kind, name).Config for kind in KINDS for name in names(kind)},
    **{f"export {name}": cls for name, cls in EXPORTS.items()},
    "evaluate of images": ImageEvaluation,
}


@pytest.fixture(scope="module")
def known() -> list[Group]:
    return groups(all_kinds())


def everything(known: list[Group]) -> Iterator[Setting]:
    for group in known:
        yield from group.common
        for of in group.types:
            yield from of.settings


def test_the_page_is_current() -> None:
    assert page() == PAGE, "the settings have changed: make docs"


def test_no_setting_is_without_a_text(known: list[Group]) -> None:
    assert {setting.key for setting in everything(known) if len(setting.text) < 5} == set()


def test_every_setting_has_its_place() -> None:
    """Looked for are the fields of every Config, and what --print-config prints, under the module's own heading."""
    items = set(re.findall(r"^- \*\*`([\w.]+)`\*\*", PAGE, re.MULTILINE))
    for key, kinds in kinds_by_key().items():
        for config in (find(kind, name).Config for kind in kinds for name in names(kind)):
            assert {f"{key}.{field.name}" for field in dataclasses.fields(config)} <= items
    assert {field.name for cls in EXPORTS.values() for field in dataclasses.fields(cls)} <= items
    for config in CONFIGS:
        for key, value in load([config]).to_mapping().items():
            inner = (
                {f"{key}.{name}" for name in value if name != "type"} if isinstance(value, dict) else {key}
            )
            assert inner <= items
    headings = re.findall(r"^##+ (.*)", PAGE, re.MULTILINE)
    assert all(name in headings for kind in KINDS for name in names(kind))


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_typed_for_a_default_is_the_default(name: str) -> None:
    cls = CLASSES[name]
    typed = [f"{s.key}={s.default}" for s in describe(cls) if not (s.default or "").startswith("ids3d/")]
    assert len(typed) >= len(dataclasses.fields(cls)) - 1
    assert parse(cls, read_overrides(typed, {})) == cls()


@pytest.mark.parametrize("name", CLASSES)
def test_bounds_are_those_that_parsing_holds_to(name: str) -> None:
    cls, fields = CLASSES[name], {f.name: f for f in dataclasses.fields(CLASSES[name])}
    hints = typing.get_type_hints(cls)
    for setting in describe(cls):
        is_list = "tuple[" in str(hints[setting.key]) or "list[" in str(hints[setting.key])
        if setting.bounds:
            low, high = (float(end) for end in setting.bounds[1:-1].split(", "))
            count = len(fields[setting.key].default or ()) if is_list else 0
            for value in (low - 1, high + 1):
                given = [value] * (count or (3 if setting.key == "background" else 2)) if is_list else value
                with pytest.raises(UserError, match=re.escape(f" is not in {setting.bounds}")):
                    parse(cls, {setting.key: given})
        else:  # a number has bounds, or says them in words
            assert not re.match(r"a (whole )?number|a list", setting.type), setting


def test_jobs_defaults_are_what_is_typed(known: list[Group]) -> None:
    for job, config in ((SceneJob, CONFIGS[0]), (ImageJob, CONFIGS[1])):
        own = {
            s.key: s for group in known if group.kind in (Job.__name__, job.__name__) for s in group.common
        }
        loaded = load([config], [f"{key}={s.default}" for key, s in own.items() if s.default is not None])
        for field in dataclasses.fields(job):
            if field.name in module_fields(job):
                assert (
                    getattr(loaded, field.name).type == field.metadata["default"] == own[field.name].default
                )
            elif field.default is not dataclasses.MISSING:
                assert getattr(loaded, field.name) == field.default
    own = {s.key for group in known if group.kind == TrainingJob.__name__ for s in group.common}
    assert own == {"tag", "train"}


@pytest.mark.parametrize("config", CONFIGS)
def test_what_configs_say_instead_is_beside_the_default(known: list[Group], config: str) -> None:
    job, file = load([config]), config.rpartition("/")[2]
    said = 0
    for group in known:
        for of in group.types:
            if group.key in module_fields(type(job)) and of.name == getattr(job, group.key).type:
                run = getattr(job, group.key).settings()
                for setting in of.settings:
                    name = setting.key.partition(".")[2]
                    default, value = getattr(type(run)(), name), getattr(run, name)
                    instead = [v for v, origin in setting.shipped if origin == file]
                    assert bool(instead) == (value != default), setting
                    if instead:
                        typed = read_overrides([f"{name}={instead[0]}"], {})
                        assert getattr(parse(type(run), typed), name) == value
                        said += 1
    assert said >= 3


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        launch.main(list(words))
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_on_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "--help", "reconstruct.lr_density")
    assert text.startswith("reconstruct.lr_density  of rays\n") and text.count("\n") == 3
    assert "a number, in (0, 1000]; default 0.2" in text and "Adam's rate of the density" in text
    cut = said(capsys, "--help", "guidance.w_cut")
    assert "of cds\n" in cut and "default 3.0" in cut and "of ids\n" in cut and "default 0.0" in cut
    assert "of auto, blender, colmap, llff, transforms\n" in said(capsys, "-h", "data.near")
    assert said(capsys, "--help", "seed").startswith("seed\n")
    prompts = said(capsys, "--help", "prompt")
    assert re.findall(r"^\S+", prompts, re.MULTILINE) == ["prompt.source", "prompt.target"]


def test_help_on_a_module_and_a_kind(capsys: pytest.CaptureFixture[str]) -> None:
    ids = said(capsys, "--help", "ids")
    keys = re.findall(r"^guidance\.(\w+)$", ids, re.MULTILINE)
    assert keys == [field.name for field in dataclasses.fields(find("guidance", "ids").Config)]
    assert ids.startswith("guidance=ids: Identity-preserving Distillation Sampling")
    guidance = said(capsys, "--help", "guidance")
    for kind in ("guidance", "sampler"):
        assert all(f"\nguidance={name}: " in guidance for name in names(kind))
    assert guidance.startswith("guidance\n  the method that edits\n")
    samplers = help_on("sampler")
    assert "guidance=p2p: " in samplers and "guidance=ids: " not in samplers
    assert "\n--export RUN points: " in help_on("export")
    mesh = help_on("mesh")
    assert mesh.startswith("--export RUN mesh: ") and "\nfaces\n" in mesh and "\ndevice\n" in mesh


def test_help_alone_is_that_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--help").startswith("usage: ")
    assert said(capsys, "--config", "configs/ids-llff.yaml", "-h").startswith("usage: ")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("guidance.w_cutt", "did you mean guidance.w_cut?"),
        ("lr_decay", "did you mean reconstruct.lr_decay?"),
        ("trainer.max_steps", "edit.steps"),
        ("idss", "did you mean ids?"),
        ("zzzz", "docs/settings.md"),
    ],
)
def test_help_on_what_there_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str, hint: str
) -> None:
    monkeypatch.setattr("sys.argv", ["launch.py", "--help", key])
    assert launch.command() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and hint in error and repr(key) in error
