"""The evaluation: its intervals, the judge, what is sampled, and all of it on a prior of random weights."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from scipy.stats import binom, binomtest
from torch import Tensor

from ids3d.cameras import project
from ids3d.cli import run_command
from ids3d.metrics import ClipScore
from ids3d.models.priors.stable_diffusion import StableDiffusion
from ids3d.tabletop.__main__ import main
from ids3d.tabletop.candidates import pick
from ids3d.tabletop.captions import caption, place
from ids3d.tabletop.clip import load_clip
from ids3d.tabletop.edit_quality import edit_quality
from ids3d.tabletop.edits import edit_camera, held_out_edit, render_edit
from ids3d.tabletop.evaluate import (
    EvaluationConfig,
    EvaluationResult,
    evaluate,
    judge_sides,
    load_pipeline,
    prompted_scenes,
    sample,
    side_of,
)
from ids3d.tabletop.scene import HELD_OUT, sample_camera, sample_scene
from ids3d.tabletop.world import FORMER, LIGHT
from tests.tabletop import tiny_prior

SMALL = EvaluationConfig(vae_pictures=3, clip_pictures=4, prompts=6, steps=2, batch=4, edits=2, edit_steps=1)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_prior.build(tmp_path_factory.mktemp("prior"))


@pytest.mark.parametrize(("right", "of"), [(0, 10), (10, 10), (231, 256), (3, 7)])
def test_intervals_are_wilsons(right: int, of: int) -> None:
    report = EvaluationResult()
    report.add_share("x", [True] * right + [False] * (of - right))
    interval = binomtest(right, of).proportion_ci(method="wilson")
    assert report.figures["x"] == right / of
    assert report.figures["x_95"] == pytest.approx([interval.low, interval.high], abs=1e-4)


def test_mean_and_its_interval() -> None:
    """Of many values about the normal distribution's, by the central limit theorem."""
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    report = EvaluationResult()
    report.add_mean("x", values.tolist())
    mean, half = float(values.mean()), 1.96 * float(values.std()) / 20
    assert report.figures["x"] == pytest.approx(mean)
    assert report.figures["x_95"] == pytest.approx([mean - half, mean + half], abs=0.1 * half)


class Oracle:
    """A judge that embeds captions as random unit vectors, and each picture as the vector of its own caption."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)

    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        rows = [torch.randn(64, generator=torch.Generator().manual_seed(hash(c) % 2**31)) for c in captions]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    def embed_pictures(self, pictures: Tensor) -> Tensor:
        return self.embed_captions([self.texts[int(i)] for i in pictures[:, 0, 0, 0]])


def test_the_judge_picks_what_fits_best() -> None:
    scenes = [sample_scene(seed) for seed in range(20)]
    choices = [[scenes[(i + j) % 20] for j in range(5)] for i in range(20)]
    wanted = [(3 * i) % 5 for i in range(20)]
    oracle = Oracle([caption(choices[i][wanted[i]]) for i in range(20)])
    pictures = torch.arange(20.0)[:, None, None, None].expand(20, 3, 2, 2)
    assert pick(oracle, pictures, choices) == wanted  # type: ignore[arg-type]

    class Blind(Oracle):
        def embed_pictures(self, pictures: Tensor) -> Tensor:
            return torch.zeros(len(pictures), 64)

    assert pick(Blind([]), pictures, choices) == [4] * 20  # type: ignore[arg-type]


def test_sides_are_told_from_their_opposites() -> None:
    scenes = [sample_scene(seed, 2, LIGHT) for seed in range(4)]
    sides = ["to the left of", None, "to the right of", "to the left of"]
    shown = [place(scene, side) for scene, side in zip(scenes, ["to the left of"] * 4, strict=True)]
    report = EvaluationResult()
    pictures = torch.arange(4.0)[:, None, None, None].expand(4, 3, 2, 2)
    judge_sides(report, "where", Oracle(shown), pictures, scenes, sides)  # type: ignore[arg-type]
    assert report.figures["where"] == 2 / 3  # the third is on the other side
    judge_sides(report, "nowhere", Oracle(shown), pictures, scenes, [None] * 4)  # type: ignore[arg-type]
    assert "nowhere" not in report.figures


def test_the_side_that_is_said_is_the_one_in_the_picture() -> None:
    for seed in range(40):
        scene = sample_scene(seed, 2, LIGHT)
        middles = torch.tensor([[thing.x, thing.y, thing.size] for thing in scene.objects])
        a, b = project(sample_camera(seed, scene), middles)[0][0, :, 0].tolist()
        assert side_of(scene, seed) in (None, "to the left of" if a < b else "to the right of")
    assert side_of(sample_scene(0, 2, FORMER), 0) is None  # the former world's captions say nothing of it


def test_median_worst_tenth_and_interval() -> None:
    report = EvaluationResult()
    report.add_spread("x", [float(v) for v in reversed(range(64))])
    assert report.figures["x"] == 31.5
    assert report.figures["x_worst_tenth"] == 6
    low, high = report.figures["x_95"]  # type: ignore[misc]
    below = binom(
        64, 0.5
    ).cdf  # the interval from the j-th to the k-th holds the median where j to k - 1 lie below it
    assert 0.93 < below(int(high)) - below(int(low)) < 0.98


def test_gain_is_against_the_true_edit(prior: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With edits that are a tenth too bright everywhere."""
    edits = [held_out_edit(i, ("reshape",)) for i in range(3)]
    views = [render_edit(edit, edit_camera(HELD_OUT + i, edit, 64)) for i, edit in enumerate(edits)]
    left = [view.after.rgb.permute(2, 0, 1) * 0.8 + 0.1 for view in views]
    monkeypatch.setattr(StableDiffusion, "decode", lambda self, z: torch.stack([left.pop(0) for _ in z]))
    found = edit_quality(prior, LIGHT, 64, "reshape", 3, 1, "cpu", batch=2)
    for quality, view in zip(found, views, strict=True):
        made, before, after = view.after.rgb * 0.8 + 0.1, view.before.rgb, view.after.rgb

        def decibels(x: Tensor) -> float:
            return -10 * math.log10(float(x.square().mean()))

        assert quality.gain == pytest.approx(
            decibels((made - after)[view.mask]) - decibels((before - after)[view.mask]), abs=1e-3
        )
        assert quality.outside == pytest.approx(decibels((made - before)[~view.mask]), abs=1e-3)


def test_prompts_are_held_out_and_half_of_two() -> None:
    scenes = prompted_scenes(256)
    assert [len(scene.objects) for scene in scenes] == [1, 2] * 128
    assert scenes[5] == sample_scene(HELD_OUT + 100_005, 2)


def test_figures_of_a_random_prior_of_a_world_without_relations(tmp_path: Path) -> None:
    report = evaluate(tiny_prior.build(tmp_path, FORMER), SMALL, ("clip", "samples"))
    assert report.figures["world"] == "former"
    assert not {"clip_where", "sample_where"} & report.figures.keys()


def test_figures_of_a_random_prior(prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(prior, SMALL)
    shares = ("clip_top1", "sample_top1", "sample_top1_one", "sample_top1_two")
    edits = ("edit_gain", "edit_outside", "reshape_gain", "reshape_outside")
    assert report.figures["world"] == "light"
    for name in ("clip_where", "sample_where"):
        assert report.figures[name] in (0.0, 0.5, 1.0)
    assert sum(name.startswith("vae_psnr_") for name in report.figures) >= 3
    for name in ("vae_psnr", *shares, *edits):
        low, high = report.figures[f"{name}_95"]  # type: ignore[misc]
        assert low <= report.figures[name] <= high
    assert 0 < report.figures["vae_psnr"] < 20  # type: ignore[operator]
    assert len(report.samples) == 6
    again = evaluate(prior, SMALL)
    assert {k: v for k, v in again.figures.items() if k != "seconds"} == {
        k: v for k, v in report.figures.items() if k != "seconds"
    }

    flags = ["--prompts", "4", "--steps", "2", "--only", "samples", "--guidance-scale", "3"]
    paths = {"--json": tmp_path / "f.json", "--sheet": tmp_path / "s.png", "--prior": prior}
    assert (
        run_command(main, ["evaluate", *flags, *(str(word) for pair in paths.items() for word in pair)]) == 0
    )
    figures = json.loads((tmp_path / "f.json").read_text())
    assert '"sample_top1_two"' in capsys.readouterr().out
    assert figures["guidance_scale"] == 3
    assert "vae_psnr" not in figures
    assert (tmp_path / "s.png").is_file()


def test_samples_do_not_depend_on_the_batch(prior: Path) -> None:
    pipeline = load_pipeline(prior, "cpu")
    texts = [caption(scene) for scene in prompted_scenes(3)]
    three = sample(pipeline, texts, EvaluationConfig(steps=2, batch=3))
    one = sample(pipeline, texts, EvaluationConfig(steps=2, batch=1))
    assert three.shape == (3, 3, 64, 64)
    assert (three - one).abs().max() < 1e-4
    assert (three[0] - three[1]).abs().max() > 0.01


def test_clip_takes_pictures_from_minus_one_to_one(prior: Path) -> None:
    clip = load_clip(prior)
    assert isinstance(clip, ClipScore)
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = clip.model.vision_model(pixel_values=2 * picture - 1).pooler_output
        expected = torch.nn.functional.normalize(clip.model.visual_projection(seen), dim=-1)
    assert torch.allclose(clip.embed_pictures(picture), expected, atol=1e-6)
    assert clip.model.dtype == torch.float32
