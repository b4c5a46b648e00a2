"""Modules by name and by import path."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from ids3d import registry
from ids3d.errors import UserError
from ids3d.registry import Kind, find, find_among, names, register, shortcomings


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of guidances of our own in place of ids3d.models.guidance, and an empty table of classes."""
    folder = tmp_path / "toy_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "plain.py").write_text(
        "from dataclasses import dataclass\n"
        "from ids3d.registry import register\n"
        "@register('guidance', 'plain')\n"
        "class Plain:\n"
        "    @dataclass\n"
        "    class Config: pass\n"
        "    def __init__(self, cfg, prior): pass\n"
        "    def __call__(self, z): pass\n"
        "class Bare: pass\n"
        "class Heir(Plain): pass\n"
        "class Odd(Plain):\n"
        "    class Config: pass\n"
        "class Mute(Plain):\n"
        "    __call__ = None\n"
        "from abc import ABC, abstractmethod\n"
        "class Base(Plain, ABC):\n"
        "    @abstractmethod\n"
        "    def gradient(self, step): pass\n"
        "class Unfinished(Base): pass\n"
        "class Alone(Plain):\n"
        "    def __init__(self, cfg): pass\n"
    )
    (folder / "protocol.py").write_text(
        "from typing import Any, Protocol\n"
        "class Guidance(Protocol):\n"
        "    def __init__(self, cfg: Any, prior: Any) -> None: ...\n"
        "    def __call__(self, z: Any) -> Any: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.KINDS, "guidance", Kind("toy_package", "Guidance"))
    monkeypatch.setitem(registry._classes, "guidance", {})
    for name in ("toy_package", "toy_package.plain", "toy_package.protocol", "toy_package.broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def test_find_imports_the_modules_of_the_kind() -> None:
    assert find("guidance", "plain").__name__ == "Plain"
    assert names("guidance") == ["plain"]


def test_a_file_of_the_modules_name_is_all_that_is_imported(package: Path) -> None:
    (package / "other.py").write_text("raise RuntimeError('not needed')\n")
    assert find("guidance", "plain").__name__ == "Plain"


def test_find_by_path() -> None:
    assert find("guidance", "toy_package.plain:Plain").__name__ == "Plain"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("plain.x", ["unknown guidance 'plain.x'"]),
        ("", ["unknown guidance ''"]),
        ("plian", ["unknown guidance 'plian'", "did you mean plain?"]),
        ("PLIAN", ["unknown guidance 'PLIAN'", "did you mean plain?"]),
        ("zzz", ["unknown guidance 'zzz' (known: plain)"]),
        ("x" * 999, ["unknown guidance 'xxx"]),
        ("toy_package.plain:Plan", ["has no 'Plan'", "did you mean Plain?"]),
        ("toy_package.plain:Bare", ["Config"]),
        ("toy_package.plain:register", ["Config"]),
        ("toy_package.plain:Mute", ["Mute has no '__call__'", "toy_package.protocol"]),
        ("toy_package.plain:Unfinished", ["Unfinished does not write 'gradient'"]),
        ("toy_package.plain:Alone", ["Alone cannot be made", "guidance(cfg, prior)"]),
        ("toy_package.none:Plain", ["no module toy_package.none"]),
        ("nowhere_at_all.plain:Plain", ["no module nowhere_at_all"]),
        (":Plain", ["package.module:Class"]),
        (".:Plain", ["package.module:Class"]),
        ("..a:Plain", ["package.module:Class"]),
        ("toy_package.plain:Plain.Config", ["package.module:Class"]),
        ("toy_package.plain:spec", ["toy_package.plain has no 'spec'"]),
        ("toy_package.plain:Odd", ["Odd holds no dataclass named Config"]),
        ("builtins:dict", ["dict holds no dataclass named Config"]),
    ],
)
def test_what_is_not_there_is_named(name: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        find("guidance", name)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_class_may_inherit_its_config() -> None:
    heir = find("guidance", "toy_package.plain:Heir")
    assert heir.Config is find("guidance", "plain").Config and "Config" not in vars(heir)


def test_names_are_found_in_any_case() -> None:
    assert find("guidance", "PLain").__name__ == "Plain"
    with pytest.raises(ValueError, match="lower case"):
        register("guidance", "Plain")


def test_no_hint_where_nothing_is_near() -> None:
    with pytest.raises(UserError) as caught:
        find("guidance", "toy_package.plain:__spec")
    assert "did you mean" not in str(caught.value)


def test_a_broken_import_inside_a_module_is_not_hidden(package: Path) -> None:
    (package / "broken.py").write_text("import a_library_that_is_not_installed\n")
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_installed"):
        find("guidance", "toy_package.broken:Plain")


def test_a_name_stands_for_one_class() -> None:
    class One:
        pass

    class Two:
        pass

    register("guidance", "taken")(One)
    register("guidance", "taken")(One)
    with pytest.raises(ValueError, match="already"):
        register("guidance", "taken")(Two)
    with pytest.raises(ValueError, match="unknown kind"):
        register("guidence", "x")


def test_the_kind_is_found_with_the_class() -> None:
    from ids3d.data.images.files import ImageFiles
    from ids3d.data.scenes.llff import LLFF

    assert find_among(("scene", "images"), "files") == ("images", ImageFiles)
    assert find_among(("scene", "images"), "llff") == ("scene", LLFF)
    assert find_among(("scene", "images"), "ids3d.data.images.files:ImageFiles") == ("images", ImageFiles)
    with pytest.raises(UserError, match=r"unknown scene or images .fils.: did you mean files"):
        find_among(("scene", "images"), "fils")


@pytest.mark.parametrize("kind", [kind for kind in registry.KINDS if kind != "guidance"])
def test_all_that_is_registered_satisfies_its_protocol(kind: str) -> None:
    assert names(kind)
    assert {name: shortcomings(find(kind, name), kind) for name in names(kind)} == {
        n: [] for n in names(kind)
    }
