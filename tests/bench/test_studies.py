"""The studies end to end: a user's own pictures and scenes with a random Stable Diffusion, interruptions, errors."""

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
from ids3d.bench.cost import Counted
from ids3d.bench.images import Axes, identity_claim
from ids3d.errors import Interrupted, UserError
from ids3d.experiment import load
from ids3d.models.guidance.ids import IDS
from ids3d.report.page import Report
from tests import tiny_sd
from tests.systems import tiny_scene


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """own("images", "--steps", "2"): that study of three random pictures with the tiny prior; its table's rows."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = ["name,source,target"]
    for i, size in enumerate([(16, 16), (16, 24), (16, 16)]):
        values = np.random.default_rng(i).integers(0, 255, (*size, 3)).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{i}.png")
        rows.append(f"{i}.png,a red cube,a blue cube")
    (folder / "prompts.csv").write_text("\n".join(rows))

    def run(study: str, *arguments: str, out: str = "out") -> dict[str, Any]:
        prior = ["prior=stable-diffusion", f"prior.path={tiny_sd.folder('epsilon')}"]
        where = ["--folder", str(folder), "--out", str(tmp_path / out)]
        command.main([study, *where, *arguments, *prior])
        with (tmp_path / out / study / f"{study}.csv").open() as file:
            return {row[study]: row for row in csv.DictReader(file)}

    return run


def test_own_pictures_have_no_columns_that_need_the_truth(own: Callable[..., Any], tmp_path: Path) -> None:
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
    for name, row in whole.items():
        for column, value in row.items():
            if "seconds" not in column:
                assert again[name][column] == value, (name, column)


def test_there_and_back_and_costs(own: Callable[..., Any]) -> None:
    back = own("reversibility", "--methods", "dds", "ids", "--quick")
    assert float(back["IDS"]["PSNR of there and back to the start, dB"]) > 0
    costs = own("cost", "--methods", "dds", "ids", "--quick")
    assert float(costs["DDS"]["ratio to DDS"]) == 1
    assert (
        float(costs["DDS"]["UNet forward, latents per step"]) == 4
    )  # two latents, each with and without prompt
    assert float(costs["IDS"]["UNet forward, latents per step"]) == 10  # and three iterations' pairs
    assert float(costs["IDS"]["UNet backward, latents per step"]) == 6


def test_ablation(own: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):  # its tables have names of their own
        own("ablation", "--quick")
    text = (tmp_path / "out/ablation/ablation-iterations.csv").read_text()
    assert "N = 0" in text and "N = 3" in text
    assert "λ = 10" in (tmp_path / "out/ablation/ablation-scale.csv").read_text()


SMALL = ["geometry.voxels=8000", "renderer.steps=64", "renderer.occupancy_cells=4096", "reconstruct.steps=8"]


def scene_records(tmp_path: Path, out: str, *methods: str) -> list[dict[str, Any]]:
    """The records of the quick study of a ball's folder, with the tiny prior."""
    prior = ["prior=stable-diffusion", f"prior.path={tiny_sd.folder('epsilon')}"]
    where = ["--scenes", str(tmp_path / "scenes.csv"), "--out", str(tmp_path / out)]
    command.main(["scenes", "--quick", "--methods", *methods, *where, *SMALL, *prior])
    files = (tmp_path / out / "scenes").glob("*.json")
    return [record for file in files for record in json.loads(file.read_text())["records"]]


def test_a_scene_stopped_amid_an_edit_goes_on_with_what_it_has_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_scene.write(tmp_path / "ball")
    (tmp_path / "scenes.csv").write_text("root,source,target\nball,a red cube,a blue cube\n")
    (whole,) = scene_records(tmp_path, "whole", "ids")

    measure, stops = scenes.Watch.on_train_batch_end, [4]

    def stopping(self: scenes.Watch, trainer: Any, *rest: Any) -> None:
        measure(self, trainer, *rest)
        if trainer.global_step in stops:  # after the first of two measurements, of 6 steps
            stops.clear()
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(scenes.Watch, "on_train_batch_end", stopping)
    with pytest.raises(Interrupted, match="step 4 of 6"):
        scene_records(tmp_path, "stopped", "ids")
    (stopped,) = scene_records(tmp_path, "stopped", "ids")
    assert not stops
    assert stopped["snapshots"] == whole["snapshots"]
    assert len(stopped["snapshots"]) == 2 and not list((tmp_path / "stopped/scenes/ball").rglob("*.ckpt"))


def test_own_scenes(tmp_path: Path) -> None:
    tiny_scene.write(tmp_path / "ball")
    (tmp_path / "scenes.csv").write_text("root,source,target\nball,a red cube,a blue cube\n")
    record = scene_records(tmp_path, "out", "dds", "ids")[0]
    with (tmp_path / "out/scenes/scenes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["scenes"] for row in rows] == ["DDS", "IDS"]
    assert float(rows[0]["agreement of neighbouring views, dB"]) > 0  # the ball's folder knows the true edit
    assert [snapshot["share"] for snapshot in record["snapshots"]] == [0.5, 1.0]


@pytest.mark.parametrize(("whose", "voxels", "lr"), [("own", None, None), ("tabletop", 300_000, 0.22)])
def test_what_makes_tabletop_scenes_small_is_not_done_to_ones_own(
    whose: str, voxels: int | None, lr: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_scene.write(tmp_path / "ball")
    (tmp_path / "scenes.csv").write_text("root,source,target\nball,a red cube,a blue cube\n")
    place = scenes.Place("ball", tmp_path / "ball")
    monkeypatch.setattr(scenes, "tabletop_places", lambda folder, plan: [place])
    jobs = []

    def study(prior, judges, places, methods, store, seed, identity, overrides, line, plan):  # type: ignore[no-untyped-def]
        jobs.append(scenes._job(places[0], store, seed, overrides, plan))
        return Report("", line, "")

    monkeypatch.setattr(scenes, "study", study)
    which = ["--scenes", str(tmp_path / "scenes.csv")] if whose == "own" else []
    prior = ["prior=stable-diffusion", f"prior.path={tiny_sd.folder('epsilon')}"]
    command.main(["scenes", "--methods", "dds", "--out", str(tmp_path / "out"), *which, *prior])
    job, default = jobs[0].to_mapping(), load([], ["name=default", "data.root=."]).to_mapping()
    assert job["geometry"]["voxels"] == (voxels or default["geometry"]["voxels"])
    assert job["edit"]["lr"] == (lr or default["edit"]["lr"])
    assert job["reconstruct"]["steps"] == (400 if voxels else default["reconstruct"]["steps"])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["images", "--methods", "idz"], "idz"),
        (["images", "--folder", "/nowhere"], "/nowhere"),
        (["scenes", "--methods", "p2p"], "p2p"),
        (["scenes", "--scenes", "/nowhere.csv"], "nowhere.csv"),
        (["images", "--edits", "0"], "0"),
        (["pictures"], "pictures"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], what: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=what):
        command.main([*arguments, *([] if arguments == ["pictures"] else ["--out", str(tmp_path)])])


def test_evaluations_are_counted() -> None:
    prior = tiny_sd.prior()
    counted: Any = Counted(prior)
    z, prompt = torch.randn(3, 4, 8, 8), prior.embed(["a red cube"])
    cfg = IDS.Config(fpr_iterations=2)
    IDS(cfg, counted)(z, z, prompt, prompt, torch.Generator().manual_seed(0))
    assert (counted.forward, counted.backward) == (3 * (2 * 2 + 4), 3 * 2 * 2)


def test_the_claim_of_equal_strength_sees_through_editing_less() -> None:
    """A method that edits less but on the same curve is not said to keep identity better; one on a better curve is."""

    def rows(reach: float, lift: float) -> list[dict[str, Any]]:
        made = []
        for i in range(12):
            strengths = [reach * k / 4 for k in range(1, 5)]
            made.append(
                {
                    "snapshots": [
                        {"strength": s, "psnr": 20.0, "psnr_outside": 30 + lift - 10 * s + 0.1 * i}
                        for s in strengths
                    ]
                }
            )
        return made

    axes = Axes("strength", "share", "psnr_outside", "dB")
    same = identity_claim({"IDS": rows(0.5, 0.0), "DDS": rows(1.0, 0.0)}, "DDS", axes)
    better = identity_claim({"IDS": rows(0.5, 1.0), "DDS": rows(1.0, 0.0)}, "DDS", axes)
    assert same.verdict == "not decided" and better.verdict == "holds"
