"""Parse mappings into dataclasses, each value checked, with errors that say which key of which file is wrong."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union

from ids3d.config.habits import habit
from ids3d.config.layers import Node, Origin
from ids3d.errors import UserError, nearest
from ids3d.reading import is_plain

D = TypeVar("D")

LARGEST_INTEGER, LARGEST_NUMBER = 2**63, 1e30
LONGEST_TEXT = 10_000  # characters


@dataclass(frozen=True)
class _Entry:
    """Where a value is in the config: its dotted path, and where it was written."""

    path: str
    origin: Origin | None

    def __str__(self) -> str:
        return f"{self.path} ({self.origin.source})" if self.origin else self.path


def parse(
    cls: type[D], node: Mapping[str, Any], where: str = "", elsewhere: Callable[[str], str] | None = None
) -> D:
    """Return an instance of the dataclass `cls` with the values of `node`, each checked against the field's type.

    Understood: bool, int, float, str, Literal, list[...], tuple[...], X | None, dict[str, ...], nested dataclasses
    and Any. Integers are taken for floats, and whole floats (1e4) for integers; nothing else is converted. Numbers are
    finite, and text is what can be written into a file.

    Args:
        where: the dotted path of `node` in the config, for the messages.
        elsewhere: says of a key that `cls` does not have where there is one of that name; '' if nowhere.

    Raises:
        UserError: an unknown key, a value of the wrong type, a missing key without a default, or a ValueError of the
            dataclass's own `__post_init__`.
    """
    if not isinstance(node, Mapping):
        raise UserError(f"{where}: expected a mapping of settings, got {_shown(node)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in node.items():
        entry = _entry(node, key, where)
        if key not in fields:
            hint = habit(entry.path, value) or (elsewhere(str(key)) if elsewhere else "")
            hint = hint or nearest(str(key), fields) or f"known are {', '.join(fields)}"
            raise UserError(f"unknown key {entry}: {hint}")
        values[key] = _convert(hints[key], value, entry)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            path = _entry(node, name, where).path
            raise UserError(f"{path} has no value: it has no default, so the config must say it")
    try:
        return cls(**values)
    except ValueError as error:
        origins = [_entry(node, key, where).origin for key in node]
        sources = ", ".join(sorted({origin.source for origin in origins if origin})) or "defaults"
        raise UserError(f"bad value in {where or 'the config'} ({sources}): {error}") from error


def _convert(hint: Any, value: Any, entry: _Entry) -> Any:
    """Return `value` as the type that `hint` says. Raises UserError."""
    outer, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if outer in (Union, types.UnionType):
        return _convert_union(hint, value, entry)
    if outer is Literal:
        return _convert_literal(hint, value, entry)
    if outer in (list, tuple, Sequence):
        return _convert_sequence(hint, value, entry)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return parse(hint, value, entry.path)
        raise _bad(hint, value, entry)
    if outer in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise _bad(hint, value, entry)
        inner = args[1] if args else Any
        return {key: _convert(inner, item, _entry(value, key, entry.path)) for key, item in value.items()}
    return _convert_scalar(hint, value, entry)


def _convert_scalar(hint: Any, value: Any, entry: _Entry) -> Any:
    if hint is str:
        # On the command line what was typed is the text, even where YAML would read a number, a list or a comment.
        if entry.origin is not None and entry.origin.text is not None:
            return _checked_text(_unquoted(entry.origin.text), entry)
        if isinstance(value, str):
            return _checked_text(value, entry)
    elif hint is bool and isinstance(value, bool):
        return value
    elif hint is int and _is_number(value, LARGEST_INTEGER) and value == int(value):
        return int(value)
    elif hint is float and _is_number(value, LARGEST_NUMBER):
        return float(value)
    elif hint is type(None) and value is None:
        return None
    elif hint not in (str, bool, int, float, type(None)):
        raise TypeError(f"{entry.path}: a Config field cannot be of type {hint}")
    raise _bad(hint, value, entry)


def _is_number(value: Any, limit: float) -> bool:
    """Tell whether a value is a number less than `limit` away from 0, thus neither infinite nor nan."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < limit


def _checked_text(text: str, entry: _Entry) -> str:
    if len(text) > LONGEST_TEXT:
        raise UserError(f"bad value for {entry}: a text of {len(text)} characters, more than {LONGEST_TEXT}")
    if not is_plain(text):  # an argument that is no UTF-8 has halves of surrogates
        raise UserError(f"bad value for {entry}: {_shown(text)} has characters that no text has")
    return text


def _convert_literal(hint: Any, value: Any, entry: _Entry) -> Any:
    options = typing.get_args(hint)
    typed = entry.origin.text if entry.origin else None
    for option in options:
        if option == typed or (option == value and type(option) is type(value)):
            return option
    hint_of_it = nearest(str(value), map(str, options))
    raise UserError(f"{_bad(hint, value, entry)}{'; ' if hint_of_it else ''}{hint_of_it}")


def _convert_union(hint: Any, value: Any, entry: _Entry) -> Any:
    if value is None and type(None) in typing.get_args(hint):
        return None
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if len(options) == 1:
        return _convert(options[0], value, entry)
    for option in options:
        try:
            return _convert(option, value, entry)
        except UserError:
            continue
    raise _bad(hint, value, entry)


def _convert_sequence(hint: Any, value: Any, entry: _Entry) -> list[Any] | tuple[Any, ...]:
    outer, args = typing.get_origin(hint), typing.get_args(hint)
    if not isinstance(value, list | tuple):
        raise _bad(hint, value, entry)
    hints = args if outer is tuple and args[-1:] != (Ellipsis,) else args[:1] * len(value)
    if len(value) != len(hints):
        raise _bad(hint, value, entry)
    origin = Origin(entry.origin.source) if entry.origin else None
    items = [
        _convert(h, v, _Entry(f"{entry.path}[{i}]", origin))
        for i, (h, v) in enumerate(zip(hints, value, strict=True))
    ]
    return tuple(items) if outer is tuple else items


def _unquoted(text: str) -> str:
    """Return the text without the one pair of quotes around it, if there is one."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _entry(node: Mapping[str, Any], key: object, where: str) -> _Entry:
    """Return the entry of a key of `node`, which is at the dotted path `where`."""
    origin = node.origins.get(str(key)) if isinstance(node, Node) else None
    return _Entry(f"{where}.{key}" if where else str(key), origin)


def _bad(hint: Any, value: Any, entry: _Entry) -> UserError:
    return UserError(f"bad value for {entry}: expected {named(hint)}, got {_shown(value)}")


def named(hint: Any) -> str:
    """Return a type in words."""
    plain = {
        str: "text",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        type(None): "null",
        Any: "anything",
    }
    if hint in plain:
        return plain[hint]
    outer, args = typing.get_origin(hint), typing.get_args(hint)
    if outer in (Union, types.UnionType):
        return " or ".join(named(option) for option in args)
    if outer is Literal:
        return " or ".join(str(option) for option in args)
    if outer is tuple and args[-1:] != (Ellipsis,):
        return f"a list of {len(args)}: [{', '.join(named(option) for option in args)}]"
    if outer in (list, tuple, Sequence):
        return f"a list, each item {named(args[0])}"
    return "a mapping of settings"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        shown = f"a mapping ({', '.join(map(str, value)) or 'empty'})"
    else:
        shown = (
            "null" if value is None else str(value).lower() if isinstance(value, bool) else _written(value)
        )
    return shown if len(shown) <= 100 else f"{shown[:97]}..."


def _written(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a very large number"
