"""The report of a run: every held-out view before the edit beside after it, the film, what differs from defaults."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from ids3d.experiment import SceneJob
from ids3d.systems.scene_run import run
from ids3d.systems.settings_table import settings_of


@pytest.fixture(scope="module")
def job(tiny_in: Callable[..., SceneJob], tmp_path_factory: pytest.TempPathFactory) -> SceneJob:
    made = tiny_in(tmp_path_factory.mktemp("report"), "evaluate.film_frames=2")
    run(made)
    return made


@pytest.fixture(scope="module")
def page(job: SceneJob) -> str:
    return (job.folder / "report.html").read_text()


def test_it_opens_without_a_network(page: str) -> None:
    sources = re.findall(r"""(?:src|href|poster|srcset)=["']([^"']*)""", page)
    assert sources and all(source.startswith("data:") for source in sources)
    assert "url(" not in page and "@import" not in page


def test_each_view_is_named_and_shown_before_and_after(job: SceneJob, page: str) -> None:
    sections = re.findall(r"<section>(.*?)</section>", page, re.DOTALL)
    names = [re.findall(r"<h3>(.*?)</h3>", section)[0] for section in sections]
    assert names == ["00", "08"]  # the photographs' names
    for name, section in zip(names, sections, strict=True):
        labels = re.findall(r"<figcaption>(.*?)</figcaption>", section)
        assert labels == ["before", "after", "photograph", "true edit", "difference", "depth, near is light"]
        images = [decoded(url) for url in re.findall(r'src="data:image/webp;base64,(.*?)"', section)]
        files = ("source", "edited", "photograph", "true_edit", "difference", "depths")
        for image, file in zip(images, files, strict=True):
            written = iio.imread(job.folder / "renders" / f"{name}_{file}.png").astype(float)
            assert image.shape == written.shape
            assert np.array_equal(image, written)


def decoded(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url))).convert("RGB")).astype(float)


def test_figures_stand_beside_each_other(job: SceneJob, page: str) -> None:
    figures = json.loads((job.folder / "metrics.json").read_text())
    with (job.folder / "views.csv").open() as file:
        views = {row["view"]: row for row in csv.DictReader(file)}
    assert list(views) == ["00", "08"]
    for key in ("source/psnr_inside", "edit/psnr_inside", "edit/psnr_outside"):
        mean = sum(float(row[key]) for row in views.values()) / 2
        assert mean == pytest.approx(figures[key])
    for row in views.values():
        before, after = float(row["source/psnr_inside"]), float(row["edit/psnr_inside"])
        assert f"inside the mask {before:.2f} → {after:.2f}" in page


def test_the_film_is_in_the_page(job: SceneJob, page: str) -> None:
    (film,) = re.findall(r'<video src="data:video/mp4;base64,(.*?)"', page)
    assert base64.b64decode(film) == (job.folder / "video.mp4").read_bytes()


def test_settings_that_differ_are_marked(job: SceneJob, page: str) -> None:
    found = {setting.key: setting for setting in settings_of(job)}
    assert found["reconstruct.steps"].differs and found["reconstruct.steps"].default == "1200"
    assert (
        found["guidance.guidance_scale"].value == "1.5" and found["guidance.guidance_scale"].default == "7.5"
    )
    assert found["edit"].value == "pull-back" and found["edit"].default == "pictures"
    assert not found["guidance"].differs and not found["reconstruct.lr_density"].differs
    assert not {"name", "tag", "output"} & found.keys() and "prompt.source" in found
    shown, everything = page.split("<details>")
    marked = re.findall(r'<tr class="differs"><th>(.*?)</th>', shown)
    assert marked == [setting.key for setting in settings_of(job) if setting.differs]
    assert re.findall(r'<tr class="differs"><th>(.*?)</th>', everything) == marked
    assert everything.count("<tr") - 1 >= len(found)
