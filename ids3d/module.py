"""A module as the config names it: its type, its settings, and what it is made of."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from ids3d.config import Node, Origin, parse
from ids3d.errors import UserError
from ids3d.registry import find, find_among, names, shared_settings


@dataclass(frozen=True)
class Module:
    """A module that the config names, with its settings as they were written (without `type`).

    Attributes:
        key: the config's key that names it.
        kinds: the kinds of module that the key may hold.
        type: a registered name, or an import path.
        node: its settings.
        origin: where its type was written; None: it is the default.
    """

    key: str
    kinds: tuple[str, ...]
    type: str
    node: Node
    origin: Origin | None = None

    def find(self) -> Any:
        """The class. Raises UserError for a name that is not known, and for a class of another kind."""
        return self._find()[1]

    @property
    def kind(self) -> str:
        """Which of `kinds` the class is of. Raises UserError as `find` does."""
        return self._find()[0]

    def _find(self) -> tuple[str, Any]:
        try:
            return find_among(self.kinds, self.type)
        except UserError as error:
            source = f" ({self.origin.source})" if self.origin else ""
            raise UserError(f"bad value for {self.key}{source}: {error}") from None

    def settings(self) -> Any:
        """An instance of the class's Config. Raises UserError for an unknown key or a bad value.

        What was written for another type, and is shared by all, is left out where the class does not have it.
        """
        config = self.find().Config
        has = {f.name for f in dataclasses.fields(config)}
        node, origins = self.node, self.node.origins
        return parse(
            config,
            Node({k: v for k, v in node.items() if k in has or not _is_kept(node, k)}, origins),
            self.key,
            self._elsewhere,
        )

    def _elsewhere(self, setting: str) -> str:
        """A hint where other modules that the key may name have a setting that this one lacks; '' where none has."""
        others = [
            name
            for kind in self.kinds
            for name in names(kind)
            if name != self.type
            and any(f.name == setting for f in dataclasses.fields(find(kind, name).Config))
        ]
        options = " or ".join(f"{self.key}={name}" for name in others)
        return f"it is a setting of {options}, not of {self.key}={self.type}" if others else ""

    def build(self, *args: Any) -> Any:
        """The module: `Class(settings, *args)`, as its kind's Protocol says."""
        return self.find()(self.settings(), *args)

    def to_mapping(self) -> dict[str, Any]:
        """Its type and every setting with its value, as plain mappings, lists and scalars."""
        return {"type": self.type, **plain(self.settings())}

    def to_yaml(self) -> str:
        """`to_mapping` under its key as YAML, those settings first that all modules of its kind share."""
        value, shared = self.to_mapping(), shared_settings(self.kind)
        type_ = value.pop("type")
        parts = [OmegaConf.to_yaml({self.key: {"type": type_}})]
        for settings, said in (
            (
                {k: v for k, v in value.items() if k in shared},
                f"shared: kept when {self.key}=... names another",
            ),
            ({k: v for k, v in value.items() if k not in shared}, f"of {type_} alone"),
        ):
            if settings:
                parts += [f"  # {said}\n"] if shared else []
                parts.append(textwrap.indent(OmegaConf.to_yaml(OmegaConf.create(settings)), "  "))
        return "".join(parts)


def _is_kept(node: Node, key: str) -> bool:
    return key in node.origins and node.origins[key].kept


def module(default: str, *kinds: str) -> Any:
    """A job's field for a Module of one of `kinds`, `default` where the config names none."""
    return field(metadata={"kinds": kinds, "default": default})


def plain(value: Any) -> Any:
    """Dataclasses and mappings as plain mappings, tuples as lists, and so on down to scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
