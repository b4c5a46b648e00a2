"""What studies keep, and the lists of scenes they are given: damaged, it is made again, or refused in one line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ids3d.bench.scene_sources import listed_sources
from ids3d.bench.store import Store
from tests.fuzz.hostile import PATHS, damaged, fuzz, verdict

RECORDS = [{"psnr": 12.5, "name": "a"}, {"psnr": 3.25, "name": "b"}]
SETTINGS = {"method": "ids"}


def kept(folder: Path) -> Path:
    """The file of a unit of work that is done."""
    Store(folder).get("images", SETTINGS, lambda: [dict(record) for record in RECORDS])
    (file,) = (folder / "images").glob("*.json")
    return file


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return kept(tmp_path_factory.mktemp("store")).read_bytes()


@fuzz
@given(data=st.data())
def test_damaged_results_are_made_again(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    """What comes back is what was kept, whatever happened to the file, which is then mended."""
    file = kept(tmp_path)
    noise = st.binary() | st.sampled_from(
        [b"[" * 100_000, b"null", b"[]", b"{}", b'{"records": [1]}', b"9" * 9000]
    )
    file.write_bytes(data.draw(damaged(whole) | noise))
    assert Store(tmp_path).get("images", SETTINGS, lambda: [dict(record) for record in RECORDS]) == RECORDS


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "text", "a folder"])
def test_damaged_images_are_made_again(tmp_path: Path, how: str) -> None:
    calls = []

    def make() -> list[dict[str, Any]]:
        calls.append(1)
        return [{"edited": torch.full((20, 30, 3), 0.2), "psnr": 1.5}]

    (record,) = Store(tmp_path).get("images", SETTINGS, make)
    image = tmp_path / record["edited"]
    was = image.read_bytes()
    if how == "cut":
        image.write_bytes(was[: len(was) // 2])
    elif how == "empty":
        image.write_bytes(b"")
    elif how == "text":
        image.write_text("hello")
    else:
        image.unlink()
    if how == "a folder":
        image.mkdir()
        assert verdict(lambda: Store(tmp_path).read_image(record["edited"])) is None
        image.rmdir()
    assert Store(tmp_path).get("images", SETTINGS, make) == [record]
    assert len(calls) == 2 and image.read_bytes() == was


def test_results_of_an_earlier_version_are_kept(tmp_path: Path) -> None:
    file = kept(tmp_path)
    old = json.loads(file.read_text())
    del old["digest"]
    file.write_text(json.dumps(old))
    assert Store(tmp_path).get("images", SETTINGS, lambda: pytest.fail("made again")) == RECORDS


TABLE = b'root,source,target\r\nfern,the leaves,"red, yellow leaves"\r\nball,,\r\n'


@fuzz
@given(damaged(TABLE) | st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_list_of_scenes(tmp_path: Path, table: bytes) -> None:
    file = tmp_path / "scenes.csv"
    file.write_bytes(table)
    for source in verdict(lambda: listed_sources(file), tmp_path) or []:
        assert source.root.is_absolute()


@pytest.mark.parametrize("path", PATHS)
def test_paths_of_scenes_at_which_nothing_can_lie(tmp_path: Path, path: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("root", "source", "target"), (path, "a", "b")])
    (tmp_path / "scenes.csv").write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))
    verdict(lambda: listed_sources(tmp_path / "scenes.csv"), tmp_path)


def test_a_prompt_with_a_comma_does_not_shift_the_next(tmp_path: Path) -> None:
    (tmp_path / "scenes.csv").write_text("root,source,target\nfern,a red cube, on a floor,a blue cube\n")
    line = verdict(lambda: listed_sources(tmp_path / "scenes.csv"), tmp_path)
    assert line is None
    (tmp_path / "scenes.csv").write_bytes(TABLE)
    first, second = listed_sources(tmp_path / "scenes.csv")
    assert (first.source, first.target, second.source) == ("the leaves", "red, yellow leaves", None)
