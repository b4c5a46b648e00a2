"""One run's whole configuration: YAML files merged left to right, then `key=value` overrides, checked to the last key.

experiment = load(["configs/ids-llff.yaml"], ["guidance=dds", "data.root=/data/fern"])
guidance = experiment.guidance.build(prior)
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ids3d.config import Node, Origin, parse
from ids3d.errors import UserError
from ids3d.registry import find

COMMAND_LINE = "command line"

# The keys that name a module: the kind of module that each holds, and the one that is meant where `type` is not said.
MODULES = {
    "data": ("data", "llff"),
    "geometry": ("geometry", "grid"),
    "renderer": ("renderer", "occupancy"),
    "prior": ("prior", "tabletop"),
    "guidance": ("guidance", "ids"),
    "reconstruct": ("system", "reconstruct"),
    "edit": ("system", "edit-scene"),
    "evaluate": ("system", "evaluate"),
    "train": ("system", ""),  # a Training's; the others are an Experiment's or an ImageEdit's
}


@dataclass(frozen=True)
class Module:
    """A module that the config names, with its settings as they were written (without `type`)."""

    key: str
    type: str
    node: Node
    origin: Origin | None = None

    def find(self) -> Any:
        """The class. Raises UserError for a name that is not known."""
        try:
            return find(MODULES[self.key][0], self.type)
        except UserError as error:
            source = f" ({self.origin.source})" if self.origin else ""
            raise UserError(f"bad value for {self.key}{source}: {error}") from None

    def settings(self) -> Any:
        """An instance of the class's Config. Raises UserError for an unknown key or a bad value."""
        return parse(self.find().Config, self.node, self.key)

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """The module: `Class(settings, *args, **kwargs)`."""
        return self.find()(self.settings(), *args, **kwargs)


@dataclass(frozen=True)
class Prompts:
    """What the scene is, and what it is to become. None: the caption that the scene itself brings, if it does."""

    source: str | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        for name, text in (("source", self.source), ("target", self.target)):
            if text is not None and not text.strip():
                raise ValueError(
                    f"prompt.{name} is empty: say in words what the scene is, and what it is to become"
                )


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every root of a config has. Results go to `<output>/<name>/<tag>/`."""

    name: str
    tag: str = ""  # the run's folder within the name's; empty: `default_tag`
    output: str = "outputs"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA where there is a device
    tracking: Literal["wandb", "csv", "none"] = "csv"

    def __post_init__(self) -> None:
        for key, text in (("name", self.name), ("tag", self.tag)):
            if not re.fullmatch(r"[\w.+=-]*", text) or text in (".", ".."):
                raise ValueError(f"{key} {text!r} cannot name a folder: use letters, digits and . _ - + =")
        if not self.name:
            raise ValueError("name is empty")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} is not between 0 and 2^63")

    @property
    def folder(self) -> Path:
        """Where this run's results go."""
        return Path(self.output) / self.name / self.tag

    def default_tag(self) -> str:
        """The tag of a run that was given none: the date and the time."""
        return time.strftime("%Y%m%d-%H%M%S")

    def check(self) -> None:
        """Finds every module and parses its settings. Raises UserError for the first thing that is wrong."""
        self.to_mapping()

    def to_mapping(self) -> dict[str, Any]:
        """Every setting with its value, defaults too, as plain mappings, lists and scalars."""
        return {
            f.name: _module_mapping(value)
            if isinstance(value := getattr(self, f.name), Module)
            else _plain(value)
            for f in dataclasses.fields(self)
        }

    def to_yaml(self) -> str:
        """`to_mapping` as YAML that `load` reads back to an equal job."""
        return OmegaConf.to_yaml(OmegaConf.create(_escaped(self.to_mapping())))


@dataclass(frozen=True, kw_only=True)
class Experiment(Job):
    """The root of a config that reconstructs a scene, edits it and evaluates."""

    data: Module
    geometry: Module
    renderer: Module
    prior: Module
    guidance: Module
    reconstruct: Module
    edit: Module
    evaluate: Module
    stage: Literal["all", "reconstruct"] = "all"  # where to stop
    prompt: Prompts = field(default_factory=Prompts)


@dataclass(frozen=True, kw_only=True)
class ImageEdit(Job):
    """The root of a config that edits pictures: one whose `data.type` is pictures."""

    data: Module
    prior: Module
    guidance: Module
    edit: Module
    prompt: Prompts = field(default_factory=Prompts)

    def default_tag(self) -> str:
        """The method's name: what was edited by it is then found again, and not edited twice."""
        return re.sub(r"[^\w.+=-]+", "-", self.guidance.type)


@dataclass(frozen=True, kw_only=True)
class Training(Job):
    """The root of a config that trains one of the tabletop prior's models: any config with the key `train`."""

    train: Module  # which model, and its settings
    tag: str = "run"  # a training that was stopped goes on when it is started again under the same tag


def load(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Job:
    """The Experiment or Training that `files`, merged left to right, and then `key=value` `overrides` describe.

    A key that names a module (MODULES) may hold the module's name or a mapping with `type`. Where a later layer names
    another type, the settings of the earlier one are dropped; all overrides are one layer, whatever their order.
    Only the root's keys are checked here: the modules' own need their imports, so `Experiment.check` does that.

    Raises UserError: a file that is missing or is no YAML, an override that is not key=value, an unknown key, a bad
    value.
    """
    tree = Node({}, {})
    for file in files:
        tree = _merge(tree, _read(Path(file)))
    tree = _resolve(_merge(tree, _read_overrides(overrides)))
    root = _root(tree)
    for key in MODULES.keys() & {f.name for f in dataclasses.fields(root)}:
        tree[key] = _module(key, tree.get(key, Node({}, {})), tree.origins.get(key))
    return parse(root, tree)


def _root(tree: Node) -> type[Job]:
    """What kind of job a config describes."""
    if "train" in tree:
        return Training
    data = tree.get("data")
    return ImageEdit if isinstance(data, Node) and data.get("type") == "pictures" else Experiment


def _read(file: Path) -> Node:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"config {file} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {file} cannot be read: {error}") from None
    try:
        values = OmegaConf.to_container(OmegaConf.create(text)) if text.strip() else {}
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"config {file}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"config {file}: not valid YAML: {error}") from None
    # A file that holds nothing but a word is read as that key without a value.
    if not isinstance(values, dict) or (":" not in text and values):
        raise UserError(f"config {file}: expected `key: value` lines at the top level")
    return _layer(values, str(file))


def _read_overrides(overrides: Sequence[str]) -> Node:
    layer = Node({}, {})
    for override in overrides:
        match = re.fullmatch(r"([A-Za-z_][\w-]*(?:\.[\w-]+)*)=(.*)", override, re.DOTALL)
        if not match:
            raise UserError(
                f"{override!r} is not an override: expected key=value, such as seed=1 or data.root=/scenes/fern"
            )
        path, text = match.group(1).split("."), match.group(2)
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"] if text else ""  # type: ignore[call-overload, index]
        except (yaml.YAMLError, OmegaConfBaseException):
            value = text  # not YAML, so it can only be meant as text
        if len(path) == 1 and path[0] in MODULES and isinstance(value, str):
            path, value = [path[0], "type"], value
        node = layer
        for key in path[:-1]:
            if not isinstance(node.get(key), Node):
                node.put(key, Node({}, {}), Origin(COMMAND_LINE))
            node = node[key]
        value = _layer(value, COMMAND_LINE) if isinstance(value, dict) else value
        node.put(path[-1], value, Origin(COMMAND_LINE, text))
    return layer


def _layer(values: Mapping[Any, Any], source: str, top: bool = True) -> Node:
    """Plain mappings as Nodes of `source`; a module's bare name becomes a mapping with `type`."""
    node = Node({}, {})
    for key, value in values.items():
        if not isinstance(key, str):
            raise UserError(f"{source}: the key {key!r} is not text")
        if top and key in MODULES and isinstance(value, str):
            value = {"type": value}
        node.put(key, _layer(value, source, top=False) if isinstance(value, dict) else value, Origin(source))
    return node


def _merge(old: Node, new: Node, top: bool = True) -> Node:
    """`new` over `old`; neither is changed. Lists and scalars are replaced, and so is a module of another type."""
    merged = Node(old, old.origins)
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, Node) and isinstance(value, Node):
            former = before.get("type", MODULES[key][1]) if top and key in MODULES else None
            if former is None or value.get("type", former) == former:
                value = _merge(before, value, top=False)
        merged.put(key, value, new.origins[key])
    return merged


def _resolve(tree: Node) -> Node:
    """The tree with `${other.key}` replaced by that key's value."""
    try:
        values = OmegaConf.to_container(OmegaConf.create(_plain(tree)), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"bad value for {error.full_key or 'a key'}: {str(error).splitlines()[0]}") from None
    assert isinstance(values, dict)
    return _with_origins(values, tree)


def _with_origins(values: Mapping[Any, Any], like: Node) -> Node:
    return Node(
        {k: _with_origins(v, like[k]) if isinstance(like[k], Node) else v for k, v in values.items()},
        like.origins,
    )


def _module(key: str, value: Any, origin: Origin | None) -> Module:
    if not isinstance(value, Node):
        source = f" ({origin.source})" if origin else ""
        raise UserError(f"bad value for {key}{source}: expected a module's name or a mapping, got {value!r}")
    kind = value.get("type", MODULES[key][1])
    type_origin = value.origins.get("type")
    if not isinstance(kind, str) or not kind:
        source = f" ({type_origin.source})" if type_origin else ""
        raise UserError(f"bad value for {key}.type{source}: expected the name of a module, got {kind!r}")
    settings = {k: v for k, v in value.items() if k != "type"}
    return Module(key, kind, Node(settings, value.origins), type_origin)


def _module_mapping(module: Module) -> dict[str, Any]:
    return {"type": module.type, **_plain(module.settings())}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _escaped(value: Any) -> Any:
    """With `${` in texts written so that OmegaConf reads it as those two characters."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
