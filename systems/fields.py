"""A field on the disk: safetensors, which hold numbers and text and nothing that could be run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ids3d.errors import UserError
from ids3d.files import atomic_write
from ids3d.models.renderers.protocol import Renderer
from ids3d.reading import plain_file
from ids3d.systems.storage import DamagedFile, load_tensors

OLD = {"field.safetensors": "field.pt", "last.safetensors": "last.ckpt"}
"""How the files were called that torch wrote; they are still read."""


def save_field(path: Path, renderer: Renderer, about: Mapping[str, Any]) -> None:
    """Write a field, and plain values about it, whole or not at all. Raises UserError where it cannot be written."""
    state = renderer.state_dict()
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items() if torch.is_tensor(v)}
    plain = {k: v for k, v in state.items() if not torch.is_tensor(v)}
    words = {"about": json.dumps(about), "plain": json.dumps(plain)}
    content = safetensors.torch.save(tensors, {**words, "digest": _digest(tensors, words)})
    with atomic_write(path) as file:
        file.write_bytes(content)


def field_file(path: Path) -> Path:
    """Return where a field lies: at `path`, or beside it under the name that it had before."""
    old = path.with_name(OLD[path.name])
    return old if old.exists() and not path.exists() else path


def load_field(path: Path, advice: str, device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what `save_field` has written, or torch before it: the renderer's state, and what is said about it.

    Args:
        advice: what to do if it is damaged.

    Raises DamagedFile: it is damaged, or something else; UserError: it cannot be read.
    """
    if path.name in OLD.values():
        state = load_tensors(path, (), advice, device)
        return (state.pop("renderer"), state) if "renderer" in state else (state, {})
    try:
        with safetensors.safe_open(plain_file(path), "pt", device=str(device)) as file:
            words = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if words.pop("digest") != _digest(tensors, words):
            raise ValueError("changed")
        about, plain = (json.loads(words[key]) for key in ("about", "plain"))
        return {**tensors, **plain}, dict(about)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged or foreign file can raise anything
        raise DamagedFile(path, advice) from error


def _digest(tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> str:
    """Name a file's content: safetensors do not notice where a number has changed."""
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def restore(renderer: Renderer, state: Mapping[str, Any], path: Path, advice: str) -> None:
    """Bring a field to the state that was read from `path`. Raises DamagedFile: that is of no such field."""
    if not all(is_finite(value) for value in state.values()):
        raise DamagedFile(path, advice)
    try:
        renderer.load_state_dict(dict(state))
    except Exception as error:  # a foreign state can raise anything
        raise DamagedFile(path, advice) from error


def is_finite(value: Any) -> bool:
    """Tell whether a part of a state is no tensor of numbers that are nan or infinite."""
    return not (torch.is_tensor(value) and value.is_floating_point()) or bool(value.isfinite().all())
