"""Editing images: against a loop written out, in batches against one by one, and what is left where it goes wrong."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from ids3d.errors import Interrupted, UserError
from ids3d.experiment import ImageJob, load
from ids3d.models.guidance.dds import DDS
from ids3d.seeding import generator_for
from ids3d.systems.edit_images.latents import EditImages, optimise
from ids3d.systems.image_run import run
from tests import tiny_sd
from tests.tracking.remembering import Remembering

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "ids-image.yaml"
Job = Callable[..., ImageJob]
SAMPLERS = ("p2p", "pnp", "sdedit")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """job("data.image=...", method="dds"): on the tiny prior (images of 16x16), a few steps."""

    def make(*overrides: str, method: str = "ids") -> ImageJob:
        settings = ["tracking=none", "prior=stable-diffusion", f"prior.path={tiny_sd.folder('epsilon')}"]
        loop = ["edit.steps=3", "evaluate.clip=null", "evaluate.strip=2", f"guidance={method}"]
        brief = {"ids": ["guidance.fpr_iterations=1"]} | {name: ["guidance.steps=4"] for name in SAMPLERS}
        where = [f"output={tmp_path / 'out'}", *brief.get(method, [])]
        loaded = load([CONFIG], [*settings, *loop, *where, *overrides])
        assert isinstance(loaded, ImageJob)
        return dataclasses.replace(loaded, tag=loaded.default_tag())

    return make


def image(path: Path, seed: int = 0, size: tuple[int, int] = (16, 16)) -> Path:
    values = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    Image.fromarray(values).save(path)
    return path


def folder_of_pictures(folder: Path) -> Path:
    folder.mkdir()
    rows = ["name,source,target"]
    for i, size in enumerate([(16, 16), (16, 16), (16, 24), (16, 16)]):
        image(folder / f"{i}.png", i, size)
        rows.append(f"{i}.png,a red cube,a blue cube")
    (folder / "prompts.csv").write_text("\n".join(rows) + "\n")
    return folder


def edited(job: ImageJob, name: str) -> torch.Tensor:
    return torch.from_numpy(iio.imread(job.folder / name / "edited.png")).float() / 255


def test_the_loop_is_the_published_step() -> None:
    prior = tiny_sd.prior()
    dds, source, target = DDS(DDS.Config(), prior), prior.embed(["a red cube"]), prior.embed(["a blue cone"])
    z_src = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    got = optimise(dds, z_src, source, target, [torch.Generator().manual_seed(1)], steps=3).latents
    z, generator = z_src.clone(), torch.Generator().manual_seed(1)
    for _ in range(3):
        leaf = z.clone().requires_grad_()
        loss = 2000 / (64 * 64) * (leaf * dds(z_src, z, source, target, generator).grad).sum()
        loss.backward()
        z = z - 0.1 * leaf.grad
    torch.testing.assert_close(got, z, rtol=1e-3, atol=1e-4)  # 0.0488 is 200 / 4096 rounded


def test_a_picture_from_start_to_end(job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 31)).astype(np.uint8))
    wide.save(tmp_path / "grey.png")
    task = job(f"data.image={tmp_path / 'grey.png'}", "prompt.source=a red cube", "prompt.target=a blue cube")
    with caplog.at_level(logging.INFO):
        run(task)
    assert task.folder.name == "ids" and "grey" in caplog.text and "31x20 brought to 24x16" in caplog.text
    names = {path.name for path in (task.folder / "grey").iterdir()}
    assert names == {"source.png", "edited.png", "comparison.png", "strip.png", "result.json"}
    assert edited(task, "grey").shape == (16, 24, 3)
    figures = json.loads((task.folder / "metrics.json").read_text())
    assert figures["images"] == 1 and figures["edit/psnr_to_source"] > 0
    assert (task.folder / "config.yaml").exists() and (task.folder / "provenance.json").exists()


@pytest.mark.parametrize("method", ["sds", "dds", "cds", "pds", "ids", "p2p", "pnp", "sdedit"])
def test_every_method_is_a_name_away(job: Job, method: str) -> None:
    task = job(method=method)
    run(task)
    (folder,) = [path for path in task.folder.iterdir() if path.is_dir()]
    figures = json.loads((folder / "result.json").read_text())
    assert task.folder.name == method and {"edit/psnr_inside", "edit/psnr_outside"} <= set(figures)


def test_a_batch_gets_what_each_gets_alone(job: Job) -> None:
    system: EditImages = job().edit.build(
        tiny_sd.prior(), job("guidance.w_cut=1.0").guidance.build(tiny_sd.prior()), 7
    )
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    source, target = (system.prior.embed([t] * 3) for t in ("a red cube", "a blue cube"))
    names = ["a", "b", "c"]
    with torch.no_grad():
        together = system.edit(images, source, target, names).latents
        for i, name in enumerate(names):
            one = slice(i, i + 1)
            alone = system.edit(images[one], source[one], target[one], [name]).latents
            torch.testing.assert_close(together[one], alone, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together[0] - together[1], images.new_zeros(()))
    assert generator_for(7, "image/a").initial_seed() != generator_for(7, "image/b").initial_seed()


def test_a_folder_is_edited_once(job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = job(f"data.folder={folder_of_pictures(tmp_path / 'in')}")
    run(task)
    first = {i: (task.folder / str(i) / "edited.png").stat().st_mtime_ns for i in range(4)}
    with (task.folder / "results.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]
    image(tmp_path / "in" / "2.png", seed=9)  # another image: its edit is another one
    with caplog.at_level(logging.INFO):
        run(task)
    again = {i: (task.folder / str(i) / "edited.png").stat().st_mtime_ns for i in range(4)}
    assert {i for i in first if first[i] != again[i]} == {2}
    assert caplog.text.count("edited already") == 3
    assert (task.folder / "report.html").read_text().count("<figcaption>after<") == 4
    assert len(json.loads((task.folder / "metrics.json").read_text())) > 3


def test_a_bad_picture_does_not_stop_the_others(job: Job, tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "in")
    (folder / "1.png").write_bytes(b"broken")
    with (folder / "prompts.csv").open("a") as table:
        table.write("4.png,a,b\n0b.png,,b\n")
    task = job(f"data.folder={folder}")
    with pytest.raises(
        UserError, match=r"3 of 6 images not edited: 1 \(.*; 4 \(.*no such file.*no source prompt"
    ):
        run(task)
    assert sorted(p.parent.name for p in task.folder.glob("*/edited.png")) == ["0", "2", "3"]
    assert not (task.folder / "1").exists()


def test_ctrl_c_keeps_what_is_finished(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = job(f"data.folder={folder_of_pictures(tmp_path / 'in')}", "edit.batch_size=1")
    original, calls = EditImages.edit, []

    def interrupted(self: EditImages, *args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(EditImages, "edit", interrupted)
    with pytest.raises(Interrupted, match="the same command"):
        run(task)
    assert len(list(task.folder.glob("*/edited.png"))) == 2
    run(task)
    assert len(list(task.folder.glob("*/edited.png"))) == 4 and len(calls) == 5


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["data.image=/nowhere.png"], "nowhere.png"),
        (["guidance=idss"], "did you mean ids"),
        (["edit.steps=0"], "steps"),
        (["geometry=grid"], "unknown key geometry"),
    ],
)
def test_what_is_wrong_is_one_line(job: Job, overrides: list[str], part: str) -> None:
    with pytest.raises(UserError, match=part):
        run(job(*overrides))


def test_a_prompt_is_needed(job: Job, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no target prompt"):
        run(job(f"data.image={image(tmp_path / 'a.png')}", "prompt.source=a red cube"))


def test_a_prompt_that_is_too_long_is_said_to_be_cut(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = "a red cube on a wooden floor and a blue cone on a red cube on a floor"
    run(job(f"data.image={image(tmp_path / 'a.png')}", "prompt.source=a cube", f"prompt.target={long}"))
    assert "was cut off" in caplog.text


def test_a_tracker_gets_panels_a_table_of_all_results_and_the_report(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were edited earlier, too, in the table."""
    fake = Remembering()
    monkeypatch.setattr("ids3d.tracking.tracking.WandbRun", lambda *_: fake)
    small = job("tracking=wandb", f"data.folder={folder_of_pictures(tmp_path / 'in')}")
    run(small)
    names = ["0", "1", "2", "3"]
    assert sorted(name for name, _ in fake.panels) == [f"images/{name}" for name in names]
    fake.panels.clear()
    run(small)
    assert fake.panels == [] and fake.kept == ["report", "report"]
    table = {row.name: row for row in fake.tables["images/results"]}
    assert sorted(table) == names
    assert table["2"].images["comparison"].shape[2] == 3 and table["2"].cells["target"] == "a blue cube"
    figures = json.loads((small.folder / "metrics.json").read_text())
    assert fake.summaries["edit/psnr_to_source"] == figures["edit/psnr_to_source"]
    each = [float(row.cells["edit/psnr_to_source"]) for row in table.values()]
    assert sum(each) / 4 == pytest.approx(figures["edit/psnr_to_source"])
