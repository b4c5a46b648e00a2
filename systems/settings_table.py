"""The settings of a run beside what they are by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ids3d.experiment import Job
from ids3d.module import Module, plain
from ids3d.report.page import Setting
from ids3d.systems.overview import in_a_word

PLACES = ("name", "tag", "output")
"""Settings of a job that say what it is called, and nothing about what it does."""


def settings_of(job: Job) -> list[Setting]:
    """All settings of a job but its PLACES, in the order of its config. Defaults are those of the chosen modules."""
    found = []
    for field in dataclasses.fields(job):
        value = getattr(job, field.name)
        if field.name in PLACES:
            continue
        if isinstance(value, Module):
            found.append(Setting(field.name, value.type, str(field.metadata["default"])))
            defaults = default_values(value.find().Config)
            found += list(_flat(field.name, plain(value.settings()), defaults))
        else:
            found += list(_flat("", {field.name: plain(value)}, default_values(type(job))))
    return found


def default_values(settings: type) -> dict[str, Any]:
    """The defaults of a dataclass's fields, as plain values; those without one are left out."""
    found = {}
    for field in dataclasses.fields(settings):
        if field.default is not dataclasses.MISSING:
            found[field.name] = plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = plain(field.default_factory())
    return found


def _flat(prefix: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[Setting]:
    """Settings one by one, those of a mapping by its key and theirs."""
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(value, Mapping):
            yield from _flat(key, value, defaults.get(name, {}))
        else:
            yield Setting(key, in_a_word(value), in_a_word(defaults[name]) if name in defaults else None)
