"""Every setting that a config or a command line can hold, by the place where it is typed."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ids3d
from ids3d.config.describing import Setting, describe, written
from ids3d.experiment import ROOTS, Job, load, module_fields
from ids3d.quiet import quieten_libraries
from ids3d.registry import KINDS, find, names

CONFIGS = Path(ids3d.__file__).parent / "configs"
EXPORT = "export"


@dataclass(frozen=True)
class Type:
    """A type of module: its name, what it is, and all of its settings."""

    name: str
    about: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Group:
    """What may be set at one place of a config: a job's own settings, or those of a kind of module.

    Attributes:
        key: the config's key that names the module; '' where there is none, as for a job's own settings.
        kind: of module; or "export"; or the name of the job's class.
        about: what it is.
        common: the settings that all its types have; of a job, its own.
        types: of the kind.
    """

    key: str
    kind: str
    about: str
    common: tuple[Setting, ...]
    types: tuple[Type, ...] = ()

    def own(self, of: Type) -> list[Setting]:
        """The settings of a type that are not as all have them."""
        return [setting for setting in of.settings if setting not in self.common]


def kinds_by_key() -> dict[str, list[str]]:
    """The kinds of module that each key of a config may name."""
    found: dict[str, list[str]] = {}
    for root in ROOTS:
        for key, of in module_fields(root).items():
            found[key] = list(dict.fromkeys([*found.get(key, []), *of["kinds"]]))
    return found


def all_kinds() -> list[str]:
    """The kinds of module, and "export"."""
    return [*KINDS, EXPORT]


def groups(kinds: Collection[str]) -> list[Group]:
    """The settings of jobs, and those of the kinds, whose modules are imported for it; other modules are left out."""
    if "train" in kinds:
        quieten_libraries()  # transformers remarks on what else might be installed when its CLIP is imported
    jobs: tuple[type[Job], ...] = (Job, *ROOTS)
    found = [_of_job(job, kinds) for job in jobs]
    for key, of_key in kinds_by_key().items():
        found += [_of_kind(key, kind) for kind in of_key if kind in kinds]
    return [*found, _of_exports()] if EXPORT in kinds else found


def _of_job(job: type[Job], kinds: Collection[str]) -> Group:
    inherited = [] if job is Job else [(s.key, s.default) for s in describe(Job)]
    modules, settings = module_fields(job), []
    for setting in describe(job):
        if setting.key in modules:
            if not set(modules[setting.key]["kinds"]) <= set(kinds):
                continue
            known = [name for kind in modules[setting.key]["kinds"] for name in names(kind)]
            setting = replace(
                setting,
                type=f"{', '.join(known)}, or an import path package.module:Class",
                default=modules[setting.key]["default"] or None,
            )
        if (setting.key, setting.default) not in inherited:
            settings.append(replace(setting, shipped=_shipped_of_job(job).get(setting.key, ())))
    return Group("", job.__name__, _about(job), tuple(settings))


@functools.cache
def _of_kind(key: str, kind: str) -> Group:
    classes, shipped = {name: find(kind, name) for name in names(kind)}, _shipped_of_kind(key, kind)
    types = [
        Type(
            name,
            f"{_about(sys.modules[cls.__module__])} {_about(cls)}",
            tuple(replace(s, shipped=shipped[name].get(s.key, ())) for s in describe(cls.Config, key)),
        )
        for name, cls in classes.items()
    ]
    common: list[Setting] = []
    base = _common_base([cls.Config for cls in classes.values()]) if len(types) > 1 else None
    for setting in describe(base, key) if base else []:
        alike = {s for of in types for s in of.settings if replace(s, shipped=()) == setting}
        common.append(alike.pop() if len(alike) == 1 else setting)
    about = next(
        setting.text
        for root in ROOTS
        if kind in module_fields(root).get(key, {}).get("kinds", ())
        for setting in describe(root)
        if setting.key == key
    )
    return Group(key, kind, about, tuple(common), tuple(types))


def _of_exports() -> Group:
    from ids3d.systems.export.fields import ExportSettings  # seconds, which no other group need wait for
    from ids3d.systems.export_run import KINDS as EXPORTS

    types = [Type(name, _about(cls), tuple(describe(cls))) for name, cls in EXPORTS.items()]
    return Group("", EXPORT, _about(ExportSettings), tuple(describe(ExportSettings)), tuple(types))


def _common_base(classes: list[type]) -> Any:
    """The dataclass that all of these are or extend; None where there is none."""
    return next(
        (
            base
            for base in classes[0].__mro__
            if dataclasses.is_dataclass(base) and all(issubclass(cls, base) for cls in classes)
        ),
        None,
    )


def _about(what: object) -> str:
    """The first paragraph of a docstring, as one line."""
    return " ".join((inspect.getdoc(what) or "").split("\n\n")[0].split())


Shipped = dict[
    str, tuple[tuple[str, str], ...]
]  # by the setting's key: values, each with the name of its config


@functools.cache
def shipped_configs() -> dict[Path, Job]:
    """The configs of whole jobs that come with ids3d."""
    return {
        file: load([file])
        for folder in (".", "tabletop")
        for file in sorted((CONFIGS / folder).glob("*.yaml"))
    }


def _add(found: Shipped, key: str, value: Any, file: Path) -> None:
    found[key] = (*found.get(key, ()), (written(value), file.name))


def _shipped_of_job(job: type[Job]) -> Shipped:
    found: Shipped = {}
    for file, of in shipped_configs().items():
        if isinstance(of, job):
            for field in dataclasses.fields(job):
                value = getattr(of, field.name)
                if field.default not in (dataclasses.MISSING, value):
                    _add(found, field.name, value, file)
    return found


@functools.cache
def _shipped_of_kind(key: str, kind: str) -> dict[str, Shipped]:
    """What the configs say of each type of a kind, were it chosen over them."""
    found: dict[str, Shipped] = {name: {} for name in names(kind)}
    for file, job in shipped_configs().items():
        if kind not in module_fields(type(job)).get(key, {}).get("kinds", ()):
            continue
        for name in found:
            module = getattr(load([file], [f"{key}={name}"]), key)
            default, settings = module.find().Config(), module.settings()
            for setting in module.node:
                value = getattr(settings, setting, None)
                if value != getattr(default, setting, None):
                    _add(found[name], f"{key}.{setting}", value, file)
    return found
