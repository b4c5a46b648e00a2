"""Modules by kind and name: what `guidance=dds` or `geometry.type=my_package.my_module:MyGrid` in a config stands for.

A kind of module has one name, one package that its modules live in, one file each, and one Protocol, in the package's
`protocol.py`, which every class of the kind is held to when it is found.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ids3d.errors import UserError, nearest

IMPORT_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Kind:
    """A kind of module.

    Attributes:
        package: where its modules live; a name that no imported file has registered is looked for in the file of that
            name ("pull-back": pull_back.py), and if it is not there, in every file of the package.
        protocol: the class in `<package>.protocol` that says what a module of the kind offers and how it is made.
        shared: the dataclass there that holds the settings which the kind's modules share, if they do: a config keeps
            them when it comes to name another module.
    """

    package: str
    protocol: str
    shared: str = ""


KINDS = {
    "scene": Kind("ids3d.data.scenes", "SceneFormat", shared="SceneConfig"),
    "images": Kind("ids3d.data.images", "ImageSource"),
    "geometry": Kind("ids3d.models.geometry", "Geometry"),
    "renderer": Kind("ids3d.models.renderers", "Renderer"),
    "prior": Kind("ids3d.models.priors", "Prior"),
    "guidance": Kind("ids3d.models.guidance", "Guidance", shared="GuidanceConfig"),
    "sampler": Kind("ids3d.models.samplers", "Sampler"),
    "reconstruct": Kind("ids3d.systems.reconstruct", "ReconstructionSystem"),
    "edit-scene": Kind("ids3d.systems.edit_scene", "SceneEditingSystem", shared="EditConfig"),
    "edit-images": Kind("ids3d.systems.edit_images", "ImageEditingSystem"),
    "evaluate": Kind("ids3d.systems.evaluate", "EvaluationSystem"),
    "train": Kind("ids3d.systems.train", "TrainingSystem"),
}

T = TypeVar("T", bound=type)

_classes: dict[str, dict[str, type]] = {kind: {} for kind in KINDS}


def register(kind: str, name: str) -> Callable[[T], T]:
    """A class decorator that makes the class known as `name` among the modules of `kind`.

    The class must hold a dataclass named `Config`: its settings. Raises ValueError for a name taken by another class,
    and for one that is not in lower case: configs' names are taken without regard to case.
    """
    if kind not in _classes:
        raise ValueError(f"unknown kind of module {kind!r}: one of {', '.join(KINDS)}")

    if name != name.lower():
        raise ValueError(f"{kind} {name!r}: names are in lower case")

    def add(cls: T) -> T:
        known = _classes[kind].get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{kind} {name!r} is {known.__module__}:{known.__qualname__} already")
        _classes[kind][name] = cls
        return cls

    return add


def find(kind: str, name: str) -> Any:
    """The class of a kind that is registered as `name` or lies at that import path; see `find_among`."""
    return find_among((kind,), name)[1]


def find_among(kinds: Sequence[str], name: str) -> tuple[str, Any]:
    """The class registered as `name`, in any case, under one of `kinds`, or the one at an import path `module:Class`.

    Returns: the kind that it is of, and the class. A class given by its path is of the first kind whose Protocol it
        satisfies.
    Raises UserError for a name that nobody registered (naming the nearest), for a path that leads nowhere, and for a
    class that does not offer what its kind has to.
    """
    if ":" in name:
        return _by_path(name, kinds)
    written, name = name, name.lower()
    for look in (_import_file_of, _import_all):
        for kind in kinds:
            if name not in _classes[kind]:
                look(KINDS[kind].package, name)
            if name in _classes[kind]:
                cls = _classes[kind][name]
                faults = shortcomings(cls, kind)
                if faults:
                    raise UserError(f"{kind} {name!r}: {faults[0]}")
                return kind, cls
    known = [n for kind in kinds for n in names(kind)]
    hint = f": {near}" if (near := nearest(name, known)) else ""
    raise UserError(f"unknown {' or '.join(kinds)} {written[:100]!r}{hint} (known: {', '.join(known)})")


def names(kind: str) -> list[str]:
    """Every registered name of `kind`, sorted."""
    _import_all(KINDS[kind].package)
    return sorted(_classes[kind])


def shortcomings(cls: type, kind: str) -> list[str]:
    """What `cls` lacks to be a module of `kind`, a line each; [] if it satisfies the kind's Protocol.

    Looked at are the Protocol's methods, by name, and how many arguments `cls` is made with. Attributes and properties
    are not: a class may set them when it is made.
    """
    wanted = protocol_of(kind)
    found = []
    if not dataclasses.is_dataclass(getattr(cls, "Config", None)):
        found.append(f"{cls.__qualname__} holds no dataclass named Config")
    for name in methods_of(wanted):
        if not callable(getattr(cls, name, None)):
            found.append(
                f"{cls.__qualname__} has no {name!r}, which every {kind} offers ({wanted.__module__})"
            )
    for name in sorted(getattr(cls, "__abstractmethods__", ())):
        if name not in methods_of(wanted):
            found.append(f"{cls.__qualname__} does not write {name!r}, which its base leaves to it")
    made_with = list(inspect.signature(wanted.__init__).parameters)[1:]
    try:
        inspect.signature(cls).bind(*made_with)
    except (TypeError, ValueError):  # ValueError: a class in C, which does not say how it is made
        found.append(f"{cls.__qualname__} cannot be made as every {kind} is: {kind}({', '.join(made_with)})")
    return found


def protocol_of(kind: str) -> Any:
    """The Protocol of a kind."""
    return getattr(importlib.import_module(f"{KINDS[kind].package}.protocol"), KINDS[kind].protocol)


def shared_settings(kind: str) -> frozenset[str]:
    """The names of the settings that the modules of a kind share."""
    of = KINDS[kind]
    if not of.shared:
        return frozenset()
    config = getattr(importlib.import_module(f"{of.package}.protocol"), of.shared)
    return frozenset(field.name for field in dataclasses.fields(config))


def methods_of(protocol: type) -> list[str]:
    """The methods that a Protocol defines, `__call__` among them, in order."""
    bases = [base for base in reversed(protocol.__mro__) if getattr(base, "_is_protocol", False)]
    return list(
        dict.fromkeys(
            name
            for base in bases
            for name, value in vars(base).items()
            if callable(value) and (not name.startswith("_") or name == "__call__")
        )
    )


def _import_file_of(package_name: str, name: str) -> None:
    """Imports the file that is called like the module, if there is one: quicker than importing all of them."""
    file = name.replace("-", "_")
    if file.isidentifier() and importlib.util.find_spec(f"{package_name}.{file}") is not None:
        importlib.import_module(f"{package_name}.{file}")


def _import_all(package_name: str, name: str = "") -> None:
    package = importlib.import_module(package_name)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package_name}.{module.name}")


def _by_path(path: str, kinds: Sequence[str]) -> tuple[str, Any]:
    what = " or ".join(kinds)
    match = IMPORT_PATH.fullmatch(path)
    if match is None:
        raise UserError(f"{what} {path[:100]!r}: expected package.module:Class")
    module_name, class_name = match.groups()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only the absence of the named module is the user's slip; a broken import inside of it keeps its traceback.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"{what} {path!r}: there is no module {error.name} on the Python path") from None
    found = vars(module).get(class_name)
    if found is None:
        classes = [name for name, value in vars(module).items() if isinstance(value, type)]
        near = nearest(class_name, classes)
        raise UserError(f"{what} {path!r}: {module_name} has no {class_name!r}{'; ' if near else ''}{near}")
    if not isinstance(found, type):
        raise UserError(f"{what} {path!r}: expected a class that holds a dataclass named Config")
    faults: Sequence[str] = ()
    for kind in kinds:
        faults = shortcomings(found, kind)
        if not faults:
            return kind, found
    raise UserError(f"{what} {path!r}: {faults[0]}")
