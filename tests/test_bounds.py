"""Every number of every Config has bounds, and sizes that no memory holds are refused before they are asked of it."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest

from ids3d.config import check_bounds, parse
from ids3d.errors import UserError
from ids3d.memory import lack_of_memory
from ids3d.registry import KINDS, find, names

MODULES = [(kind, name) for kind in KINDS for name in names(kind)]


def numbers(hint: Any) -> list[type]:
    """The types of the numbers that a field of this type holds, itself or in a list."""
    return [hint] if hint in (int, float) else [t for arg in typing.get_args(hint) for t in numbers(arg)]


@pytest.mark.parametrize(("kind", "name"), MODULES)
def test_every_number_of_every_config_has_bounds(kind: str, name: str) -> None:
    config = find(kind, name).Config
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        for number in numbers(hints[field.name])[:1]:
            for value in (2**62, -(2**62)) if number is int else (9e29, -9e29):
                items = len(field.default) if isinstance(field.default, tuple) else 3
                is_list = typing.get_origin(hints[field.name]) is tuple or field.name in (
                    "background",
                    "t_range_end",
                )
                given = [value] * (2 if field.name == "t_range_end" else items) if is_list else value
                with pytest.raises(UserError, match=field.name):
                    parse(config, {field.name: given}, kind)


@pytest.mark.parametrize(
    ("kind", "name", "setting", "value"),
    [
        ("reconstruct", "rays", "tv_density", -1e-9),
        ("reconstruct", "rays", "distortion", -1.0),
        ("reconstruct", "rays", "log_every", 0),
        ("reconstruct", "rays", "finer", 0),
        ("reconstruct", "rays", "validate_every", -1),
        ("reconstruct", "rays", "refine_at", [0.5, 0.2]),
        ("edit-scene", "pull-back", "validate_every", -1),
        ("edit-scene", "pull-back", "log_every", 0),
        ("edit-scene", "pull-back", "lr", 0),
        ("edit-scene", "pictures", "rounds", 0),
        ("renderer", "occupancy", "occupancy_threshold", 1.5),
        ("renderer", "occupancy", "alpha_threshold", -0.1),
        ("renderer", "occupancy", "early_stop_eps", 1.1),
        ("renderer", "occupancy", "occupancy_cells", 10**11),
        ("geometry", "grid", "voxels", 10**15),
        ("geometry", "grid", "voxels", 10**12),
        ("geometry", "grid", "voxels", 7),
        ("guidance", "ids", "w_cut", -1),
        ("guidance", "ids", "fpr_scale", -1),
        ("guidance", "dds", "t_range", [0.5, 0.2]),
        ("guidance", "dds", "max_rms", 0),
        ("sampler", "p2p", "cross_share", 1.1),
        ("scene", "llff", "box_size", 1e-9),
    ],
)
def test_settings_out_of_bounds(kind: str, name: str, setting: str, value: object) -> None:
    with pytest.raises(UserError, match="t_range|range of timesteps" if setting == "t_range" else setting):
        parse(find(kind, name).Config, {setting: value}, kind)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1]", [0, 0.5, 1, None, (0, 1), []], [-1e-9, 1.1, float("nan"), float("inf"), (0, 2)]),
        ("(0, 1)", [1e-9, 0.5], [0, 1]),
        ("[-1, 1e3)", [-1, 999], [1000, -1.1]),
    ],
)
def test_intervals_are_read_as_they_are_written(interval: str, inside: list[Any], outside: list[Any]) -> None:
    @dataclasses.dataclass
    class Settings:
        value: Any

    for value in inside:
        check_bounds(Settings(value), value=interval)
    for value in outside:
        with pytest.raises(ValueError, match="value="):
            check_bounds(Settings(value), value=interval)


def test_memory_is_that_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1_000_000}.__getitem__)
    assert lack_of_memory(4.0e9) == ""
    assert lack_of_memory(5e12) == "needs 5e+03 GB of memory; this machine has 4.1"
