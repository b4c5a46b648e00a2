"""Imports point one way: systems -> models -> ids3d <- data; what is heavy or belongs to experiments stays on top.

ids3d/bench is on top of everything, beside launch.py; it lies in ids3d for the sake of `python -m ids3d.bench`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"ids3d", "models", "data", "systems", "launch", "tests"}
MAY_IMPORT = {
    "ids3d": {"ids3d"},
    "models": {"ids3d", "models"},
    "data": {"ids3d", "data"},
    "systems": {"ids3d", "models", "systems"},
}


class Imports(ast.NodeVisitor):
    """The top-level packages that a file imports: `eager` when it is imported itself, `all` wherever it does."""

    def __init__(self, code: str) -> None:
        self.eager: set[str] = set()
        self.all: set[str] = set()
        self._deferred = 0
        self.visit(ast.parse(code))

    def _add(self, module: str) -> None:
        package = module.partition(".")[0]
        self.all.add(package)
        if not self._deferred:
            self.eager.add(package)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0 and node.module, "a relative import"
        self._add(node.module)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._deferred += 1
        self.generic_visit(node)
        self._deferred -= 1

    def visit_If(self, node: ast.If) -> None:
        self._deferred += ast.unparse(node.test) == "TYPE_CHECKING"
        self.generic_visit(node)
        self._deferred -= ast.unparse(node.test) == "TYPE_CHECKING"


def imports(file: Path) -> Imports:
    return Imports(file.read_text(encoding="utf-8"))


def files(package: str) -> list[Path]:
    return sorted(f for f in (ROOT / package).rglob("*.py") if ROOT / "ids3d" / "bench" not in f.parents)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_dependencies_point_one_way(package: str) -> None:
    assert files(package)
    for file in files(package):
        found = imports(file).all & OURS
        assert found <= MAY_IMPORT[package], f"{file.relative_to(ROOT)} imports {found - MAY_IMPORT[package]}"


@pytest.mark.parametrize("package", ["ids3d", "models"])
def test_no_lightning_below_the_systems(package: str) -> None:
    for file in files(package):
        assert not imports(file).eager & {"pytorch_lightning", "lightning"}, file.relative_to(ROOT)


def test_nothing_stands_on_the_bench() -> None:
    for package in MAY_IMPORT:
        for file in files(package):
            assert "ids3d.bench" not in file.read_text(encoding="utf-8"), file.relative_to(ROOT)


def test_the_walk_sees_what_it_should() -> None:
    code = """
import a.b
if TYPE_CHECKING:
    import typed
def f():
    import lazy
class C:
    from nested import x
try:
    import tried
except ImportError:
    import rescued
"""
    assert Imports(code).eager == {"a", "nested", "tried", "rescued"}
    assert Imports(code).all == {"a", "typed", "lazy", "nested", "tried", "rescued"}
