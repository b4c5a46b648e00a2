"""Read what W&B has written of a run, its .wandb files, without W&B's own reader, which only its service has.

The format is LevelDB's log (a record in fragments, in blocks of 32 KiB), after a header of 7 bytes; a record is a
protobuf message of the package's own definition.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK, FRAGMENT = 7, 32768, struct.Struct("<IHB")
FULL, LAST = 1, 4


@dataclass
class Start:
    """What one process wrote: run id, settings, rows of the history, the summary, metrics with their axes."""

    id: str = ""
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    finished: bool = False


def read(folder: Path) -> list[Start]:
    """The starts of a run's folder, in the order in which they began.

    `Run.finish` returns before the service has written its last records; as at the end of a process, only the end of
    the service is waited for.
    """
    wandb.teardown()
    return [_start(_records(file)) for file in sorted((folder / "wandb").glob("*run-*/*.wandb"))]


def _records(file: Path) -> Iterator[Record]:
    data, at, parts = file.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while at + FRAGMENT.size <= len(data):
        left = BLOCK - at % BLOCK
        if left < FRAGMENT.size:
            at += left
            continue
        _, length, kind = FRAGMENT.unpack_from(data, at)
        if kind == 0 or at + FRAGMENT.size + length > len(data):
            return  # cut off by a kill
        parts += data[at + FRAGMENT.size : at + FRAGMENT.size + length]
        at += FRAGMENT.size + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def _start(records: Iterator[Record]) -> Start:
    start = Start()
    for record in records:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            start.id, start.group = record.run.run_id, record.run.run_group
            start.config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
        elif kind == "history":
            start.history.append(_values(record.history.item))
        elif kind == "summary":
            start.summary |= _values(record.summary.update)
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            start.axes[name] = record.metric.step_metric
        elif kind == "artifact":
            start.artifacts.append(record.artifact.type)
        elif kind == "exit":
            start.finished = True
    return start


def _values(items: Any) -> dict[str, Any]:
    """Values by their names; of what has parts (a picture), a mapping of these."""
    values: dict[str, Any] = {}
    for item in items:
        value = json.loads(item.value_json)
        if len(item.nested_key) > 1:
            values.setdefault(item.nested_key[0], {})[item.nested_key[1]] = value
        else:
            values[item.key or item.nested_key[0]] = value
    return values
