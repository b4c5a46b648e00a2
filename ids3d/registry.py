"""Modules by name: what `guidance=dds` or `geometry.type=my_package.my_module:MyGrid` in a config stands for."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

from ids3d.errors import UserError, nearest

# Where the modules of each kind live. When a name is looked up that no imported file has registered, the file of that
# name is imported ("edit-scene": edit_scene.py), and if it is not there, every file of the package.
PACKAGES = {
    "data": "data",
    "geometry": "models.geometry",
    "renderer": "models.renderers",
    "prior": "models.priors",
    "guidance": "models.guidance",
    "system": "systems",
}

T = TypeVar("T", bound=type)

_classes: dict[str, dict[str, type]] = {kind: {} for kind in PACKAGES}


def register(kind: str, name: str) -> Callable[[T], T]:
    """A class decorator that makes the class known as `name` among the modules of `kind`.

    The class must hold a dataclass named `Config`: its settings. Raises ValueError for a name taken by another class.
    """
    if kind not in _classes:
        raise ValueError(f"unknown kind of module {kind!r}: one of {', '.join(PACKAGES)}")

    def add(cls: T) -> T:
        known = _classes[kind].get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{kind} {name!r} is {known.__module__}:{known.__qualname__} already")
        _classes[kind][name] = cls
        return cls

    return add


def find(kind: str, name: str) -> Any:
    """The class registered as `name`, or the one at the import path `package.module:Class`.

    Raises UserError for a name that nobody registered (naming the nearest) and for a path that leads nowhere.
    """
    if ":" in name:
        return _by_path(kind, name)
    if name not in _classes[kind]:
        _import_file_of(PACKAGES[kind], name)
    if name not in _classes[kind]:
        _import_all(PACKAGES[kind])
    if name not in _classes[kind]:
        raise UserError(
            f"unknown {kind} {name!r}: {nearest(name, _classes[kind])} (known: {', '.join(names(kind))})"
        )
    return _classes[kind][name]


def names(kind: str) -> list[str]:
    """Every registered name of `kind`, sorted."""
    _import_all(PACKAGES[kind])
    return sorted(_classes[kind])


def _import_file_of(package_name: str, name: str) -> None:
    """Imports the file that is called like the module, if there is one: quicker than importing all of them."""
    file = name.replace("-", "_")
    if file.isidentifier() and importlib.util.find_spec(f"{package_name}.{file}") is not None:
        importlib.import_module(f"{package_name}.{file}")


def _import_all(package_name: str) -> None:
    package = importlib.import_module(package_name)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package_name}.{module.name}")


def _by_path(kind: str, path: str) -> Any:
    module_name, _, class_name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only the absence of the named module is the user's slip; a broken import inside of it keeps its traceback.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"{kind} {path!r}: there is no module {error.name} on the Python path") from None
    except ValueError:
        raise UserError(f"{kind} {path!r}: expected package.module:Class") from None
    found = vars(module).get(class_name)
    if found is None:
        raise UserError(
            f"{kind} {path!r}: {module_name} has no {class_name!r}; {nearest(class_name, vars(module))}"
        )
    if not isinstance(found, type) or not isinstance(vars(found).get("Config", None), type):
        raise UserError(f"{kind} {path!r}: expected a class that holds a dataclass named Config")
    return found
