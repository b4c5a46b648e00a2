"""Parse mappings into dataclasses, each value checked, with errors that say which key of which file is wrong."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

from ids3d.config.layers import Node, Origin
from ids3d.errors import UserError, nearest

D = TypeVar("D")


def parse(cls: type[D], node: Mapping[str, Any], where: str = "") -> D:
    """Return an instance of the dataclass `cls` with the values of `node`, each checked against the field's type.

    Understood: bool, int, float, str, Literal, list[...], tuple[...], X | None, dict[str, ...], nested dataclasses
    and Any. Integers are taken for floats, and whole floats (1e4) for integers; nothing else is converted.
    `where` is the dotted path of `node` in the config, for the messages. Raises UserError for an unknown key, a value
    of the wrong type, and a missing key without a default. A ValueError from the dataclass's own `__post_init__`
    becomes a UserError too.
    """
    if not isinstance(node, Mapping):
        raise UserError(f"{where}: expected a mapping of settings, got {_shown(node)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in node.items():
        path, origin = _join(where, key), _origin(node, key)
        if key not in fields:
            raise UserError(f"unknown key {path}{_in(origin)}: {nearest(str(key), fields)}")
        values[key] = _convert(hints[key], value, path, origin)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UserError(
                f"{_join(where, name)} has no value: it has no default, so the config must say it"
            )
    try:
        return cls(**values)
    except ValueError as error:
        sources = sorted({origin.source for origin in (_origin(node, key) for key in node) if origin})
        raise UserError(
            f"bad value in {where or 'the config'} ({', '.join(sources) or 'defaults'}): {error}"
        ) from error


def _convert(hint: Any, value: Any, path: str, origin: Origin | None) -> Any:
    """Return `value` as the type that `hint` says. Raises UserError."""
    outer, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, hint):
        return value
    if outer in (Union, types.UnionType):
        return _convert_union(args, hint, value, path, origin)
    if outer is Literal:
        text = origin.text if origin else None
        for option in args:
            if option == text or (option == value and type(option) is type(value)):
                return option
        options = [str(option) for option in args]
        raise UserError(f"{_bad(path, origin, hint, value)}; {nearest(str(value), options)}")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise _bad(path, origin, hint, value)
        return parse(hint, value, path)
    if outer in (list, tuple, Sequence):
        return _convert_sequence(outer, args, hint, value, path, origin)
    if outer in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise _bad(path, origin, hint, value)
        inner = args[1] if args else Any
        return {
            key: _convert(inner, item, _join(path, key), _origin(value, key)) for key, item in value.items()
        }
    return _convert_scalar(hint, value, path, origin)


def _convert_scalar(hint: Any, value: Any, path: str, origin: Origin | None) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        # On the command line what was typed is the text, even where YAML would read a number, a list or a comment.
        if origin is not None and origin.text is not None:
            return _unquoted(origin.text)
        if isinstance(value, str):
            return value
    elif hint is bool and isinstance(value, bool):
        return value
    elif hint is int and number and math.isfinite(value) and value == int(value):
        return int(value)
    elif hint is float and number and not math.isnan(value):
        return float(value)
    elif hint is type(None) and value is None:
        return None
    elif hint not in (str, bool, int, float, type(None)):
        raise TypeError(f"{path}: a Config field cannot be of type {hint}")
    raise _bad(path, origin, hint, value)


def _convert_union(args: tuple[Any, ...], hint: Any, value: Any, path: str, origin: Origin | None) -> Any:
    if value is None and type(None) in args:
        return None
    options = [option for option in args if option is not type(None)]
    if len(options) == 1:
        return _convert(options[0], value, path, origin)
    for option in options:
        try:
            return _convert(option, value, path, origin)
        except UserError:
            continue
    raise _bad(path, origin, hint, value)


def _convert_sequence(
    outer: Any, args: tuple[Any, ...], hint: Any, value: Any, path: str, origin: Origin | None
) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _bad(path, origin, hint, value)
    if outer is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        if len(value) != len(args):
            raise _bad(path, origin, hint, value)
        hints: Sequence[Any] = args
    else:
        hints = [args[0]] * len(value)
    place = Origin(origin.source) if origin else None
    items = [_convert(h, v, f"{path}[{i}]", place) for i, (h, v) in enumerate(zip(hints, value, strict=True))]
    return tuple(items) if outer is tuple else items


def _unquoted(text: str) -> str:
    """Return the text without the one pair of quotes around it, if there is one."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _bad(path: str, origin: Origin | None, hint: Any, value: Any) -> UserError:
    return UserError(f"bad value for {path}{_in(origin)}: expected {_named(hint)}, got {_shown(value)}")


def _named(hint: Any) -> str:
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
        return " or ".join(_named(option) for option in args)
    if outer is Literal:
        return " or ".join(str(option) for option in args)
    if outer is tuple and args[-1:] != (Ellipsis,):
        return f"a list of {len(args)}: [{', '.join(_named(option) for option in args)}]"
    if outer in (list, tuple, Sequence):
        return f"a list, each item {_named(args[0])}"
    return "a mapping of settings"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping ({', '.join(map(str, value)) or 'empty'})"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _origin(node: Mapping[str, Any], key: str) -> Origin | None:
    return node.origins.get(key) if isinstance(node, Node) else None


def _in(origin: Origin | None) -> str:
    return f" ({origin.source})" if origin else ""
