"""Settings: YAML files and `key=value` overrides, merged in layers and parsed into dataclasses, each value checked."""

from ids3d.config.bounds import check_bounds
from ids3d.config.layers import (
    ModuleKey,
    Node,
    Origin,
    find_config,
    merge,
    read_file,
    read_layers,
    read_overrides,
)
from ids3d.config.parsing import parse

__all__ = [
    "ModuleKey",
    "Node",
    "Origin",
    "check_bounds",
    "find_config",
    "merge",
    "parse",
    "read_file",
    "read_layers",
    "read_overrides",
]
