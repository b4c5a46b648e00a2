"""Rendered training images: what is on disk is not rendered again, and what a kill left half written is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ids3d.errors import UserError
from ids3d.tabletop import dataset, shapes
from ids3d.tabletop.dataset import load_dataset, render_seed
from ids3d.tabletop.scene import HELD_OUT
from ids3d.tabletop.world import FORMER, LIGHT


def test_the_files_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_dataset(range(3), 8, tmp_path, LIGHT, workers=1)
    rgb = tmp_path / "light-8-from-0.rgb"
    with rgb.open("ab") as file:
        file.write(b"half a picture")
    more = load_dataset(range(5), 8, tmp_path, LIGHT, workers=1)
    assert np.array_equal(more.rgb[:3], first.rgb)
    for seed in range(5):
        picture, ids = render_seed(seed, 8, "light")
        assert np.array_equal(more.rgb[seed], picture)
        assert np.array_equal(more.ids[seed], ids)

    def never(*_: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(dataset, "_render_more", never)
    fewer = load_dataset(range(4), 8, tmp_path, LIGHT)
    assert np.array_equal(fewer.rgb, more.rgb[:4])
    with pytest.raises(AssertionError, match="rendered again"):
        load_dataset(range(4), 8, tmp_path, FORMER)  # another world's files are others


def test_held_out_seeds_never_meet_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="held out"):
        load_dataset(range(HELD_OUT - 1, HELD_OUT + 1), 8, tmp_path)


def test_pictures_of_another_world_are_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = range(3)
    load_dataset(seeds, 16, tmp_path, workers=1)
    load_dataset(seeds, 16, tmp_path)
    monkeypatch.setattr(shapes, "CONE_HEIGHT", 2.0)
    monkeypatch.setitem(shapes.SHAPE, "cube", shapes.SHAPE["cone"])
    with pytest.raises(UserError, match=r"delete this file and light-16-from-0\.ids"):
        load_dataset(seeds, 16, tmp_path)
