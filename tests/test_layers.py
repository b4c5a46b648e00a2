"""Imports point one way: launch -> systems -> data, models -> ids3d; the studies stand on top, and nothing on them.

docs/architecture.md draws it and lists the kinds of module: the page is held to the code here.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ids3d.registry import KINDS, names, protocol_of

ROOT = Path(__file__).parent.parent
# Each room by the name that it is imported by: where it lies, and the rooms that it may import besides itself.
ROOMS = {
    "ids3d": ("ids3d", set[str]()),
    "ids3d.data": ("data", {"ids3d"}),
    "ids3d.models": ("models", {"ids3d"}),
    "ids3d.systems": ("systems", {"ids3d", "ids3d.data", "ids3d.models"}),
    "ids3d.bench": ("bench", {"ids3d", "ids3d.data", "ids3d.models", "ids3d.systems"}),
    "ids3d.launch": ("launch.py", {"ids3d", "ids3d.data", "ids3d.models", "ids3d.systems"}),
}
LINKED = [room for room in ROOMS if room != "ids3d"]
PACKAGES = [room for room in LINKED if room != "ids3d.launch"]


class Imports(ast.NodeVisitor):
    """The modules that a file imports: `eager` when it is imported itself, `all` wherever it does."""

    def __init__(self, code: str) -> None:
        self.eager: set[str] = set()
        self.all: set[str] = set()
        self._deferred = 0
        self.visit(ast.parse(code))

    def _add(self, module: str) -> None:
        self.all.add(module)
        if not self._deferred:
            self.eager.add(module)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0 and node.module, "a relative import"
        for alias in node.names:
            self._add(f"{node.module}.{alias.name}")

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            self._add(str(node.args[0].value))
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._deferred += 1
        self.generic_visit(node)
        self._deferred -= 1

    def visit_If(self, node: ast.If) -> None:
        self._deferred += ast.unparse(node.test) == "TYPE_CHECKING"
        self.generic_visit(node)
        self._deferred -= ast.unparse(node.test) == "TYPE_CHECKING"


@functools.cache
def imports(file: Path) -> Imports:
    return Imports(file.read_text(encoding="utf-8"))


def room_of(module: str) -> str | None:
    """The room that a module is in, by the longest prefix; None for a library's, and for the tests'."""
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len, default=None)


def files(room: str) -> list[Path]:
    """A room's files, without those of the rooms that are linked into it."""
    place = ROOT / ROOMS[room][0]
    found = [place] if place.is_file() else sorted(place.rglob("*.py"))
    return [file for file in found if file.resolve() == file]


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_one_way(room: str) -> None:
    assert files(room)
    allowed = {room} | ROOMS[room][1]
    for file in files(room):
        found = {r for module in imports(file).all if (r := room_of(module)) is not None}
        assert found <= allowed, f"{file.relative_to(ROOT)} imports {', '.join(sorted(found - allowed))}"


def test_the_arrows_have_no_way_round() -> None:
    for room, (_, below) in ROOMS.items():
        for lower in below:
            assert ROOMS[lower][1] <= below and room not in ROOMS[lower][1]


@pytest.mark.parametrize("room", ["ids3d", "ids3d.models"])  # data/ may hold Lightning's data modules
def test_no_lightning_below_the_systems(room: str) -> None:
    for file in files(room):
        found = {module.partition(".")[0] for module in imports(file).eager}
        assert not found & {"pytorch_lightning", "lightning"}, file.relative_to(ROOT)


@pytest.mark.parametrize("room", LINKED)
def test_a_room_lies_at_the_top_and_is_linked_into_ids3d(room: str) -> None:
    place = ROOT / ROOMS[room][0]
    link = ROOT / "ids3d" / place.name
    assert link.is_symlink() and link.resolve() == place and not place.is_symlink()


@pytest.mark.parametrize("room", PACKAGES)
def test_a_room_cannot_be_imported_by_its_folders_name(room: str) -> None:
    name = ROOMS[room][0]
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: import {room}, not {name}"), done.stderr


def test_nobody_imports_a_room_by_its_folders_name() -> None:
    generic = {ROOMS[room][0] for room in PACKAGES}
    for file in [f for room in ROOMS for f in files(room)] + sorted((ROOT / "tests").rglob("*.py")):
        assert not {module.partition(".")[0] for module in imports(file).all} & generic, file.relative_to(
            ROOT
        )


def test_the_walk_sees_what_it_should() -> None:
    code = """
import a.b
if TYPE_CHECKING:
    import typed
def f():
    import lazy
    importlib.import_module("by.text")
class C:
    from nested import x
try:
    import tried
except ImportError:
    import rescued
"""
    assert Imports(code).eager == {"a.b", "nested.x", "tried", "rescued"}
    assert Imports(code).all == {"a.b", "typed", "lazy", "by.text", "nested.x", "tried", "rescued"}
    for module, room in (
        ("ids3d.models.guidance.ids.IDS", "ids3d.models"),
        ("ids3d.models", "ids3d.models"),
        ("ids3d.modelling", "ids3d"),
        ("ids3d", "ids3d"),
        ("ids3d.launch.main", "ids3d.launch"),
        ("models.guidance", None),
        ("torch.nn", None),
    ):
        assert room_of(module) == room, module


PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rows(header: str) -> list[list[str]]:
    """The cells of the table whose header line begins so, without backticks."""
    lines = PAGE[PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def imported_as(room: str) -> str:
    return "ids3d" if room == "ids3d" else f"ids3d.{room}"


def test_the_drawing_shows_the_arrows() -> None:
    drawn = {room: set[str]() for room in ROOMS}
    for upper, lower in re.findall(r"^ +(\w+)(?:\[[^]]*\])? --> (\w+)", PAGE, re.MULTILINE):
        drawn[imported_as(upper)].add(imported_as(lower))
    for room, lower in drawn.items():
        direct = {room_of(module) for file in files(room) for module in imports(file).all}
        assert lower <= direct, f"{room} imports nothing of {lower - direct}"
    for room in ROOMS:  # in this order, what is below a room comes before it
        drawn[room] |= {below for lower in drawn[room] for below in drawn[lower]}
    assert drawn == {room: below for room, (_, below) in ROOMS.items()}


def test_the_page_names_every_room_and_what_it_holds() -> None:
    described = {row[0]: row[1] for row in rows("| room |")}
    assert set(described) == {"configs/", *(p if p.endswith(".py") else f"{p}/" for p, _ in ROOMS.values())}
    for place, text in described.items():
        if (ROOT / place).is_dir():
            parts = [p for p in (ROOT / place).iterdir() if p.is_dir() and not p.is_symlink()]
            held = {f"{part.name}/" for part in parts if part.name != "__pycache__"}
            if place == "configs/":
                assert "configs/prior/" in text and "prior/" in held
            else:
                assert held == set(re.findall(r"\b\w+/(?=[,;. ])", f"{text} ")), place


def test_the_page_lists_the_kinds_of_module() -> None:
    assert {kind: rest for kind, *rest in rows("| kind |")} == {
        name: [
            kind.package.removeprefix("ids3d.").replace(".", "/") + "/",
            kind.protocol,
            ", ".join(list(inspect.signature(protocol_of(name).__init__).parameters)[1:]),
            ", ".join(names(name)),
        ]
        for name, kind in KINDS.items()
    }


def test_what_the_page_names_is_there() -> None:
    found = re.findall(r"`(ids3d(?:\.\w+)+)`", PAGE)
    assert len(found) > 8
    for name in found:
        if not any(name == room for room in ROOMS) and not (ROOT / f"{name.replace('.', '/')}.py").exists():
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name
