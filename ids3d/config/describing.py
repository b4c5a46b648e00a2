"""What can be said of a dataclass's settings: type, bounds, default, and what the code beside each field says it does.

There is no other text: a field's description is the comment above it or behind it, or both; one that a subclass only
gives another default keeps that of the base.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import re
import sys
import textwrap
import tokenize
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ids3d
from ids3d.config.parsing import named

PACKAGE = str(Path(ids3d.__file__).parent)


@dataclass(frozen=True)
class Setting:
    """A setting as its user meets it.

    Attributes:
        key: as it is typed, with dots.
        type: in words.
        bounds: an interval, as `check_bounds` takes it; '' where there is none.
        default: as it is typed; None: it has none, and has to be given.
        text: what it does.
        shipped: what configs that come with ids3d say instead, each value with the file's name.
    """

    key: str
    type: str
    bounds: str
    default: str | None
    text: str
    shipped: tuple[tuple[str, str], ...] = ()


def describe(cls: Any, where: str = "") -> list[Setting]:
    """The settings of a dataclass, at the dotted path `where` of a config; those of dataclasses in it too."""
    hints, texts, bounds = typing.get_type_hints(cls), comments_of(cls), bounds_of(cls)
    found = []
    for field in dataclasses.fields(cls):
        key, hint = f"{where}.{field.name}" if where else field.name, hints[field.name]
        if dataclasses.is_dataclass(hint) and field.default_factory is not dataclasses.MISSING:
            found += describe(hint, key)
            continue
        default = None if field.default is dataclasses.MISSING else written(field.default)
        text = texts.get(field.name, "")
        found.append(Setting(key, named(hint), bounds.get(field.name, ""), default, text))
    return found


def written(value: Any) -> str:
    """A value as it is typed on the command line; what lies in the package's folder as ids3d/..."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(written, value))}]"
    if value == "":
        return '""'
    return str(value).replace(PACKAGE, "ids3d")


def comments_of(cls: Any) -> dict[str, str]:
    """The comment of each field of a dataclass that has one, as one line: the lines above it, and those behind it.

    Example:
        >>> from ids3d.config.describing import Setting
        >>> comments_of(Setting)
        {}
    """
    found: dict[str, str] = {}
    for base in reversed(_bases(cls)):
        source, node = _source(base)
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = {t.start[0]: t for t in tokens if t.type == tokenize.COMMENT}
        alone = {row for row, token in comments.items() if token.line.strip() == token.string.strip()}
        for field in node.body:
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            first = field.lineno
            while first - 1 in alone:
                first -= 1
            rows = [row for row in range(first, (field.end_lineno or first) + 1) if row in comments]
            text = " ".join(comments[row].string.lstrip("#").strip() for row in rows)
            text = re.sub(r"type: ignore(\[[\w-]+\])?( +# )?", "", text).strip()
            if text:
                found[field.target.id] = text
    return found


def bounds_of(cls: Any) -> dict[str, str]:
    """The interval of each field of a dataclass that its `__post_init__`, or a base's, gives to `check_bounds`."""
    found: dict[str, str] = {}
    for base in reversed(_bases(cls)):
        for call in ast.walk(_source(base)[1]):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "check_bounds":
                for keyword in call.keywords:
                    assert keyword.arg is not None, "check_bounds with ** cannot be read"
                    found[keyword.arg] = _value(keyword.value, base)
    return found


def _bases(cls: Any) -> list[Any]:
    return [base for base in cls.__mro__ if dataclasses.is_dataclass(base)]


@functools.cache
def _source(cls: Any) -> tuple[str, ast.ClassDef]:
    source = textwrap.dedent(inspect.getsource(cls))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.ClassDef)
    return source, node


def _value(node: ast.expr, cls: Any) -> Any:
    """What an expression means in the module of `cls`."""
    return eval(compile(ast.Expression(node), cls.__module__, "eval"), vars(sys.modules[cls.__module__]))
