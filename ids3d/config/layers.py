"""Layers of settings: what a file or a command line says, with where each value was written, and how they merge."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ids3d.errors import UserError
from ids3d.reading import given_path, read_text

COMMAND_LINE = "command line"
LARGEST = 2**18  # bytes of a config
DEEPEST = 20  # mappings and lists within one another


@dataclass(frozen=True)
class Origin:
    """Where a value was written: a file's path or 'command line', there with the text as the shell handed it over.

    `kept`: it was written for another type of module, with which it is shared; it counts where the type has it.
    """

    source: str
    text: str | None = None
    kept: bool = False


class Node(dict[str, Any]):
    """A mapping of a config that remembers where each of its keys was written. Mappings within it are Nodes too."""

    def __init__(
        self, values: Mapping[str, Any] | None = None, origins: Mapping[str, Origin] | None = None
    ) -> None:
        super().__init__(values or {})
        self.origins = dict(origins or {})

    def put(self, key: str, value: Any, origin: Origin) -> None:
        """Set the key's value and where that was written."""
        self[key], self.origins[key] = value, origin


@dataclass(frozen=True)
class ModuleKey:
    """A top-level key that names a module.

    Attributes:
        defaults: the types that it may stand for where none is said.
        shared: returns the settings that its types share, which stay when a later layer names another type.
    """

    defaults: frozenset[str]
    shared: Callable[[], frozenset[str]] = frozenset


ModuleKeys = Mapping[str, ModuleKey]
INCLUDE = "include"  # the key of a file that names one or more files which it is laid over


def find_config(path: str) -> Path:
    """Return the file at `path`, or if there is none and `path` is `configs/...`, the one that comes with ids3d."""
    given, packaged = given_path(path, "config"), Path(__file__).parent.parent / path
    is_ours = given.parts[:1] == ("configs",) and not given.exists() and packaged.is_file()
    return packaged if is_ours else given


def read_file(file: Path, modules: ModuleKeys) -> Node:
    """Read the layer of a YAML file. Raises UserError: it is missing, cannot be read, or is no YAML mapping."""
    text = read_text(file, "config", LARGEST)
    try:
        root = _check_yaml(text)
        is_mapping = isinstance(root, yaml.MappingStartEvent)
        values = OmegaConf.to_container(OmegaConf.create(text)) if is_mapping else {}
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"config {file}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"config {file}: not valid YAML: {error}") from None
    if not isinstance(values, dict) or (root is not None and not is_mapping):
        raise UserError(f"config {file}: expected `key: value` lines at the top level")
    return _with_module_names(_as_node(values, str(file), modules), modules)


def _check_yaml(text: str) -> yaml.NodeEvent | None:
    """Return the event that the value of a YAML document begins with, None if it has no value.

    Raises yaml.MarkedYAMLError for what settings have no use for: aliases, a few of which can stand for more values
    than memory holds; tags, which make objects of any kind; and nesting so deep that a recursion would not end.
    """
    root, depth = None, 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        fault = ""
        if isinstance(event, yaml.AliasEvent):
            fault = "*aliases are not supported: write the value itself"
        elif isinstance(event, yaml.NodeEvent) and event.tag is not None:
            fault = "!tags are not supported: write the value itself"
        elif depth > DEEPEST:
            fault = f"more than {DEEPEST} mappings and lists within one another"
        if fault:
            raise yaml.MarkedYAMLError(problem=fault, problem_mark=event.start_mark)
        if root is None and isinstance(event, yaml.NodeEvent):
            root = event
    return root


def read_layers(file: Path, modules: ModuleKeys) -> list[Node]:
    """Read a YAML file's layers: those of the files that it includes, given relative to it, and then its own.

    Raises UserError as `read_file` does, and for an included file that includes others.
    """
    node = read_file(file, modules)
    included = node.pop(INCLUDE, [])
    included = [included] if isinstance(included, str) else included
    if not isinstance(included, list) or not all(isinstance(name, str) for name in included):
        raise UserError(f"bad value for {INCLUDE} ({file}): expected a file's path, or a list of them")
    layers = [read_file(file.parent / name, modules) for name in included]
    for name, layer in zip(included, layers, strict=True):
        if INCLUDE in layer:
            raise UserError(f"config {file.parent / name} is included by {file}, so it cannot include others")
    return [*layers, node]


def read_overrides(overrides: Sequence[str], modules: ModuleKeys) -> Node:
    """Read the layer of `key=value` words, whatever their order. Raises UserError for other words."""
    layer = Node()
    for override in overrides:
        match = re.fullmatch(r"([A-Za-z_][\w-]*(?:\.[\w-]+)*)=(.*)", override, re.DOTALL)
        if not match:
            raise UserError(
                f"{override!r} is not an override: expected key=value, such as seed=1 or data.root=/scenes/fern"
            )
        path, text = match.group(1).split("."), match.group(2)
        if len(path) > DEEPEST:
            raise UserError(f"{override[:60]!r}...: more than {DEEPEST} keys within one another")
        if "${" in text:
            raise UserError(f"{override!r}: ${{...}} is not supported: write the value itself")
        value = _override_value(text)
        if len(path) == 1 and path[0] in modules and isinstance(value, str):
            path = [path[0], "type"]
        node = layer
        for key in path[:-1]:
            if not isinstance(node.get(key), Node):
                node.put(key, Node(), Origin(COMMAND_LINE))
            node = node[key]
        value = _as_node(value, COMMAND_LINE) if isinstance(value, dict) else value
        node.put(path[-1], value, Origin(COMMAND_LINE, text))
    return _with_module_names(layer, modules)


def merge(old: Node, new: Node, modules: ModuleKeys) -> Node:
    """Return `new` over `old`, neither changed.

    Lists and scalars are replaced, and so is a module of another type, but for the settings that its types share.
    """
    merged = Node(old, old.origins)
    for key, value in new.items():
        before, module = old.get(key), modules.get(key)
        if isinstance(before, Node) and isinstance(value, Node):
            if module is not None and _is_other_type(before, value, module.defaults):
                before = _kept(before, module.shared())
            value = merge(before, value, {})
        merged.put(key, value, new.origins[key])
    return merged


def _is_other_type(before: Node, after: Node, defaults: frozenset[str]) -> bool:
    """Tell whether `after` names another type of module than `before` stands for."""
    return "type" in after and after["type"] not in ({before["type"]} if "type" in before else defaults)


def _kept(module: Node, shared: frozenset[str]) -> Node:
    """Return a module's settings that are among the shared ones, for a module of another type."""
    origins = {key: replace(module.origins[key], kept=True) for key in module if key in shared}
    return Node({key: module[key] for key in origins}, origins)


def _override_value(text: str) -> Any:
    try:
        _check_yaml(text)
        container = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError):
        return text  # not YAML, so it can only be meant as text
    assert isinstance(container, dict)
    return container["value"] if text else ""


def _as_node(values: Mapping[Any, Any], source: str, modules: ModuleKeys | None = None) -> Node:
    """Return plain mappings as Nodes of `source`; a module's bare name becomes a mapping with `type`."""
    node = Node()
    for key, value in values.items():
        if not isinstance(key, str):
            raise UserError(f"{source}: the key {key!r} is not text")
        if _has_interpolation(value):
            raise UserError(f"{source}: {key}: ${{...}} is not supported: write the value itself")
        if key in (modules or {}) and isinstance(value, str):
            value = {"type": value}
        node.put(key, _as_node(value, source) if isinstance(value, dict) else value, Origin(source))
    return node


def _has_interpolation(value: Any) -> bool:
    """Tell whether a text, or one in lists and mappings, has what OmegaConf would look up, in the environment too."""
    if isinstance(value, list):
        return any(map(_has_interpolation, value))
    if isinstance(value, dict):
        return any(map(_has_interpolation, [*value, *value.values()]))
    return isinstance(value, str) and "${" in value


def _with_module_names(layer: Node, modules: ModuleKeys) -> Node:
    """Return the layer with the names of modules as they are registered, in lower case; import paths as they are."""
    for key in modules:
        node = layer.get(key)
        if isinstance(node, Node) and isinstance(node.get("type"), str) and ":" not in node["type"]:
            node["type"] = node["type"].lower()
    return layer
