"""The studies end to end: a user's own images and scenes with a random Stable Diffusion, interruptions, errors."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ids3d.bench import __main__ as command
from ids3d.bench import edits, scenes
from ids3d.bench import study as study_module
from ids3d.bench.cost import CountingPrior
from ids3d.bench.scene_edits import SnapshotCallback
from ids3d.bench.scene_sources import SceneSource
from ids3d.errors import Interrupted, UserError
from ids3d.experiment import load
from ids3d.models.guidance.ids import IDS
from ids3d.report.page import Report
from tests import tiny_sd
from tests.systems import tiny_scene


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """own("images", "--steps", "2"): run that study of three random images with the tiny prior; a table's rows."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = ["name,source,target"]
    for i, size in enumerate([(16, 16), (16, 24), (16, 16)]):
        values = np.random.default_rng(i).integers(0, 255, (*size, 3)).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{i}.png")
        rows.append(f"{i}.png,a red cube,a blue cube")
    (folder / "prompts.csv").write_text("\n".join(rows))

    def run(study: str, *arguments: str, out: str = "out", table: str = "") -> dict[str, Any]:
        prior = ["prior=stable-diffusion", f"prior.path={tiny_sd.folder('epsilon')}"]
        where = ["--folder", str(folder), "--out", str(tmp_path / out)]
        command.main([study, *where, *arguments, *prior])
        return read_table(tmp_path / out / study / f"{table or study}.csv")

    return run


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """A table's rows by their labels."""
    with path.open() as file:
        return {row.pop(path.stem): row for row in csv.DictReader(file)}


def without_times(row: dict[str, str]) -> dict[str, str]:
    return {column: value for column, value in row.items() if "seconds" not in column}


def test_own_images_have_no_columns_that_need_the_truth(own: Callable[..., Any], tmp_path: Path) -> None:
    rows = own("images", "--methods", "dds", "ids", "sdedit", "--steps", "2", "--quick")
    assert set(rows) == {"DDS", "IDS", "SDEdit"}
    columns = " ".join(rows["IDS"])
    assert "PSNR to the source" in columns and "CLIP" in columns
    assert "true" not in columns and "mask" not in columns
    page = (tmp_path / "out/images/report.html").read_text()
    assert "No true edit is known: the columns that need one are left out." in page
    assert "LPIPS (tabletop CLIP)" in page


def test_killed_and_started_again_it_is_as_if_never_killed(
    own: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--methods", "dds", "ids", "--quick")
    whole = own("images", *arguments)
    real, calls = edits.edit_batch, []

    def killed(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(edits, "edit_batch", killed)
    with pytest.raises(Interrupted, match="the same command goes on"):
        own("images", *arguments, out="again")
    again = own("images", *arguments, out="again")
    assert len(calls) == 3  # what was finished was not done again
    assert {name: without_times(row) for name, row in again.items()} == {
        name: without_times(row) for name, row in whole.items()
    }


def test_results_of_former_code_or_another_seed_are_not_taken(
    own: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("images", "--methods", "dds", "--quick")
    real, calls = edits.edit_batch, []
    monkeypatch.setattr(edits, "edit_batch", lambda *args: calls.append(1) or real(*args))
    own(*arguments)
    own(*arguments)
    assert len(calls) == 1
    own(*arguments, "--seed", "1")
    assert len(calls) == 2
    monkeypatch.setattr(study_module, "METHODS_VERSION", study_module.METHODS_VERSION + 1)
    own(*arguments)
    assert len(calls) == 3


def test_there_and_back(own: Callable[..., Any], tmp_path: Path) -> None:
    """The table's figures against those of the images in the store, which are rounded to 8 bits."""
    rows = own("reversibility", "--methods", "dds", "ids", "--quick")
    units = [json.loads(file.read_text()) for file in (tmp_path / "out/reversibility").glob("*.json")]
    for label in ("DDS", "IDS"):
        (unit,) = [u for u in units if u["settings"]["method"]["name"] == label.lower()]
        back, undone = [], []
        for record in unit["records"]:
            start, there, end = (
                np.asarray(Image.open(tmp_path / "out" / record[name])) / 255
                for name in ("start", "there", "back")
            )
            back.append(-10 * np.log10(np.mean((end - start) ** 2)))
            undone.append(1 - np.linalg.norm(end - start) / np.linalg.norm(there - start))
        row = rows[label]
        assert float(row["PSNR of there and back to the start, dB"]) == pytest.approx(np.mean(back), abs=0.01)
        assert float(row["share of the change that is undone"]) == pytest.approx(np.mean(undone), abs=0.01)


def test_costs(own: Callable[..., Any]) -> None:
    rows = own("cost", "--methods", "dds", "ids", "--quick")
    assert float(rows["DDS"]["ratio to DDS"]) == 1
    forward, backward = (f"UNet {way}, latents per step" for way in ("forward", "backward"))
    assert float(rows["DDS"][forward]) == 4  # two latents, each with and without prompt
    assert float(rows["DDS"][backward]) == 0
    assert float(rows["IDS"][forward]) == 10  # and three iterations' pairs
    assert float(rows["IDS"][backward]) == 6


def test_ablation(own: Callable[..., Any], tmp_path: Path) -> None:
    iterations = own("ablation", "--quick", table="ablation-iterations")
    scales = read_table(tmp_path / "out/ablation/ablation-scale.csv")
    steps = read_table(tmp_path / "out/ablation/ablation-steps.csv")
    assert list(iterations) == ["N = 0", "N = 1", "N = 3"]
    assert list(scales) == ["λ = 1", "λ = 10"] and list(steps) == ["5 steps", "10 steps"]
    # What the families share, N = 3 with λ = 1 in 10 steps; and N = 0 is DDS.
    assert without_times(iterations["N = 3"]) == without_times(scales["λ = 1"])
    assert without_times(iterations["N = 3"]) == without_times(steps["10 steps"])
    dds = own("images", "--methods", "dds", "--quick")["DDS"]
    assert without_times(iterations["N = 0"]) == without_times(dds)
    different = (iterations["N = 1"], iterations["N = 3"], scales["λ = 10"], steps["5 steps"])
    assert all(without_times(row) != without_times(dds) for row in different)


SMALL = ["geometry.voxels=8000", "renderer.steps=64", "renderer.occupancy_cells=4096", "reconstruct.steps=8"]


def scene_records(tmp_path: Path, out: str, *methods: str, edit: str = "pictures") -> list[dict[str, Any]]:
    """The records of the quick study of a ball's folder, with the tiny prior."""
    prior = ["prior=stable-diffusion", f"prior.path={tiny_sd.folder('epsilon')}"]
    where = ["--scenes", str(tmp_path / "scenes.csv"), "--out", str(tmp_path / out)]
    command.main(["scenes", "--quick", "--edit", edit, "--methods", *methods, *where, *SMALL, *prior])
    files = (tmp_path / out / "scenes").glob("*.json")
    return [record for file in files for record in json.loads(file.read_text())["records"]]


def test_a_scene_stopped_amid_an_edit_goes_on_with_what_it_has_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_scene.write(tmp_path / "ball")
    (tmp_path / "scenes.csv").write_text("root,source,target\nball,a red cube,a blue cube\n")
    (whole,) = scene_records(tmp_path, "whole", "ids", edit="pull-back")

    on_batch_end, stops = SnapshotCallback.on_train_batch_end, [4]

    def stopping(self: SnapshotCallback, trainer: Any, *rest: Any) -> None:
        on_batch_end(self, trainer, *rest)
        if trainer.global_step in stops:  # after the first of two measurements, of 6 steps
            stops.clear()
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(SnapshotCallback, "on_train_batch_end", stopping)
    with pytest.raises(Interrupted, match="the same command goes on") as caught:
        scene_records(tmp_path, "stopped", "ids", edit="pull-back")
    assert "step 4 of 6" in str(caught.value.__cause__)
    (stopped,) = scene_records(tmp_path, "stopped", "ids", edit="pull-back")
    assert not stops
    assert stopped["snapshots"] == whole["snapshots"]
    assert len(stopped["snapshots"]) == 2 and not list((tmp_path / "stopped/scenes/ball").rglob("*.ckpt"))


def test_own_scenes(tmp_path: Path) -> None:
    tiny_scene.write(tmp_path / "ball")
    (tmp_path / "scenes.csv").write_text("root,source,target\nball,a red cube,a blue cube\n")
    record = scene_records(tmp_path, "out", "dds", "ids")[0]
    rows = read_table(tmp_path / "out/scenes/scenes.csv")
    assert list(rows) == ["DDS", "IDS"]
    assert (
        float(rows["DDS"]["agreement of neighbouring views, dB"]) > 0
    )  # the ball's folder knows the true edit
    assert [snapshot["share"] for snapshot in record["snapshots"]] == [0.5, 1.0]


@pytest.mark.parametrize(("whose", "voxels"), [("own", None), ("tabletop", 300_000)])
def test_what_makes_tabletop_scenes_small_is_not_done_to_ones_own(
    whose: str, voxels: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_scene.write(tmp_path / "ball")
    (tmp_path / "scenes.csv").write_text("root,source,target\nball,a red cube,a blue cube\n")
    ball = SceneSource("ball", tmp_path / "ball")
    monkeypatch.setattr(scenes, "tabletop_sources", lambda *_: [ball])
    jobs = []

    def study(context, metrics, sources, methods, overrides, config):  # type: ignore[no-untyped-def]
        jobs.append((scenes.scene_job(context, sources[0], overrides, config), methods))
        return Report("", context.command)

    monkeypatch.setattr(scenes, "study", study)
    which = ["--scenes", str(tmp_path / "scenes.csv")] if whose == "own" else []
    more = ["guidance.guidance_scale=3", "edit.rounds=2", "prior=stable-diffusion"]
    prior = [f"prior.path={tiny_sd.folder('epsilon')}"]
    command.main(["scenes", "--methods", "dds", "--out", str(tmp_path / "out"), *which, *more, *prior])
    job, methods = jobs[0]
    job, default = job.to_mapping(), load([], ["name=default", "data.root=."]).to_mapping()
    assert job["geometry"]["voxels"] == (voxels or default["geometry"]["voxels"])
    assert job["reconstruct"]["steps"] == (400 if voxels else default["reconstruct"]["steps"])
    # The overlay's settings, which all methods share, and what the command line says.
    assert (job["edit"]["lr"], job["edit"]["steps"], job["edit"]["rounds"]) == (0.488, 24, 2)
    assert methods[0].settings["attention"] == "cross+self" and methods[0].settings["guidance_scale"] == 3


def test_attention_on_and_off_are_rows_of_their_own(tmp_path: Path) -> None:
    prior = ["prior=stable-diffusion", f"prior.path={tiny_sd.folder('epsilon')}"]
    which = ["--methods", "dds", "p2p", "ids", "--attention", "none", "cross+self"]
    command.main(["images", "--quick", *which, "--out", str(tmp_path), *prior])
    rows = read_table(tmp_path / "images/images.csv")
    assert list(rows) == ["DDS", "DDS + cross+self", "P2P", "IDS", "IDS + cross+self"]
    assert rows["DDS"] != rows["DDS + cross+self"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["images", "--methods", "idz"], "idz"),
        (["images", "--folder", "/nowhere"], "/nowhere"),
        (["scenes", "--methods", "p2p", "--edit", "pull-back"], "p2p"),
        (["scenes", "--scenes", "/nowhere.csv"], "nowhere.csv"),
        (["images", "--edits", "0"], "0"),
        (["photos"], "photos"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], what: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=what):
        command.main([*arguments, *([] if arguments == ["photos"] else ["--out", str(tmp_path)])])


def test_evaluations_are_counted() -> None:
    prior = tiny_sd.prior()
    counted: Any = CountingPrior(prior)
    z, prompt = torch.randn(3, 4, 8, 8), prior.embed(["a red cube"])
    cfg = IDS.Config(fpr_iterations=2)
    IDS(cfg, counted)(z, z, prompt, prompt, torch.Generator().manual_seed(0))
    assert (counted.forward, counted.backward) == (3 * (2 * 2 + 4), 3 * 2 * 2)
