"""What is kept of work that was done, and what is not taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ids3d.bench.store import Store


def test_work_is_done_once(tmp_path: Path) -> None:
    calls = []

    def make() -> list[dict[str, object]]:
        calls.append(1)
        return [{"psnr": 1 / 3, "edited": torch.full((2, 3, 3), 0.2)}]

    first = Store(tmp_path).get("images", {"method": "ids", "edit": 1}, make)
    again = Store(tmp_path).get("images", {"edit": 1, "method": "ids"}, make)
    assert first == again and len(calls) == 1
    assert first[0]["psnr"] == 1 / 3
    assert torch.allclose(
        Store(tmp_path).read_image(first[0]["edited"]), torch.full((2, 3, 3), 0.2), atol=1e-6
    )
    Store(tmp_path).get("images", {"method": "ids", "edit": 2}, make)
    assert len(calls) == 2


def test_a_kill_leaves_nothing_that_is_taken_for_done(tmp_path: Path) -> None:
    def killed() -> list[dict[str, object]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).get("images", {"a": 1}, killed)
    assert not list(tmp_path.rglob("*.json"))
    assert Store(tmp_path).get("images", {"a": 1}, lambda: [{"b": 2}]) == [{"b": 2}]
    (file,) = (tmp_path / "images").glob("*.json")
    assert json.loads(file.read_text())["settings"] == {"a": 1}
