"""Image files and tables of prompts, damaged and hostile: images and tasks that are whole, or one line."""

from __future__ import annotations

import csv
import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ids3d.data.images.files import ImageFiles, read_image
from ids3d.data.scenes.photographs import inspect, read_masks, read_photographs
from ids3d.tasks import EditTask
from tests.fuzz.hostile import PATHS, VALUES, damaged, fuzz, verdict


def encoded(kind: str, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


FILES = {
    "a.png": encoded("PNG", "RGBA"),
    "b.png": encoded("PNG", "P"),
    "c.jpg": encoded("JPEG"),
    "d.gif": encoded("GIF"),
    "e.tif": encoded("TIFF", "F"),
    "f.webp": encoded("WEBP"),
    "g.bmp": encoded("BMP"),
}


def assert_image(path: Path, folder: Path) -> None:
    """Read a file as an image to edit, as a photograph and as a mask: each is one, or refused."""
    source = verdict(lambda: read_image(path), folder)
    if source is not None:
        assert source.rgb.isfinite().all() and source.rgb.min() >= 0 and source.rgb.max() <= 1
        assert source.rgb.shape[-1] == 3
    photograph = verdict(lambda: inspect(path, 16, 12), folder)
    if photograph is not None:
        images = verdict(lambda: read_photographs([photograph], 12, 16, (0.0, 0.0, 0.0))[0], folder)
        assert images is None or (images.isfinite().all() and images.min() >= 0 and images.max() <= 1)
    masks = verdict(lambda: read_masks([path], 12, 16), folder)
    assert masks is None or masks.shape == (1, 12, 16)


@fuzz
@given(st.data(), st.sampled_from(sorted(FILES)))
def test_damaged_images(tmp_path: Path, data: st.DataObject, name: str) -> None:
    (tmp_path / name).write_bytes(data.draw(damaged(FILES[name])))
    assert_image(tmp_path / name, tmp_path)


@fuzz
@given(st.binary(max_size=64), st.sampled_from(sorted(FILES)))
def test_noise_after_a_magic_number(tmp_path: Path, noise: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name][:12] + noise)
    assert_image(tmp_path / name, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    pixels = np.full((12, 16), 0.5, dtype=np.float32)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    assert verdict(lambda: read_image(tmp_path / "a.tif")) is not None
    pixels[3, 4] = value
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    assert verdict(lambda: read_image(tmp_path / "a.tif")) is None


@pytest.mark.parametrize(("width", "height"), [(0, 0), (2**31 - 1, 2**31 - 1), (10**6, 10**6), (10**9, 1)])
def test_a_png_that_claims_too_much(tmp_path: Path, width: int, height: int) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    assert verdict(lambda: read_image(tmp_path / "a.png")) is None
    assert_image(tmp_path / "a.png", tmp_path)


def assert_tasks(folder: Path) -> None:
    """The tasks of a table that was accepted have prompts, and folders of their own within the run's."""
    tasks = verdict(lambda: ImageFiles(ImageFiles.Config(folder=str(folder))).tasks(64), folder)
    if tasks is None:
        return
    run = Path("/run")
    places = [(run / task.name).resolve() for task in tasks]
    assert tasks and len(set(places)) == len(places) and all(place.parent == run for place in places)
    for task in tasks:
        assert task.source is not None and task.target is not None
        verdict(task.read, folder)


NAMES = [
    "",
    "a",
    "a.png",
    "s/a.png",
    "s_a.png",
    "..",
    "../a.png",
    "/etc/passwd",
    ".",
    "...png",
    "results.csv.png",
]
CELLS = [*NAMES, *VALUES]


@fuzz
@given(
    st.lists(st.lists(st.sampled_from(CELLS), min_size=1, max_size=5), min_size=1, max_size=4),
    st.permutations(["name", "source", "target"]),
    st.booleans(),
)
def test_tables_of_hostile_cells(
    tmp_path: Path, rows: list[list[str]], columns: list[str], quoted: bool
) -> None:
    shutil.rmtree(tmp_path / "s", ignore_errors=True)
    (tmp_path / "s").mkdir()
    (tmp_path / "a.png").write_bytes(FILES["a.png"])
    (tmp_path / "s" / "a.png").write_bytes(FILES["a.png"])
    stream = io.StringIO()
    if quoted:
        csv.writer(stream).writerows([columns, *rows])
    else:
        stream.write("\n".join(",".join(row) for row in [columns, *rows]))
    (tmp_path / "prompts.csv").write_bytes(stream.getvalue().encode("utf-8", "surrogateescape"))
    assert_tasks(tmp_path)


@fuzz
@given(st.binary(), damaged(b'name,source,target\na.png,a cat,a dog\ns/a.png,"a, b",c\n'))
def test_any_bytes_as_a_table(tmp_path: Path, noise: bytes, table: bytes) -> None:
    for content in (noise, b"name,source,target\n" + noise, table):
        (tmp_path / "prompts.csv").write_bytes(content)
        assert_tasks(tmp_path)


@pytest.mark.parametrize("name", CELLS)
def test_names_of_images(name: str) -> None:
    task = verdict(lambda: EditTask(name, "a", "b", lambda: read_image(Path("/nowhere"))))
    if task is not None:
        assert (Path("/run") / task.name).resolve().parent == Path("/run")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["image", "folder"])
def test_paths_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert verdict(lambda: ImageFiles(ImageFiles.Config(**{key: path})).tasks(64), tmp_path) is None
