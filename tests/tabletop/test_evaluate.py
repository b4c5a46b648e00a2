"""The evaluation: its intervals, the judge, what is sampled, and all of it on a prior of random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from ids3d.cli import run_command
from ids3d.metrics import ClipScore
from ids3d.tabletop.__main__ import main
from ids3d.tabletop.candidates import pick
from ids3d.tabletop.captions import caption
from ids3d.tabletop.clip import load_clip
from ids3d.tabletop.evaluate import (
    EvaluationConfig,
    EvaluationResult,
    evaluate,
    load_pipeline,
    prompted_scenes,
    sample,
)
from ids3d.tabletop.scene import HELD_OUT, sample_scene
from tests.tabletop import tiny_prior

SMALL = EvaluationConfig(vae_pictures=3, clip_pictures=4, prompts=6, steps=2, batch=4)


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


def test_prompts_are_held_out_and_half_of_two() -> None:
    scenes = prompted_scenes(256)
    assert [len(scene.objects) for scene in scenes] == [1, 2] * 128
    assert scenes[5] == sample_scene(HELD_OUT + 100_005, 2)


def test_figures_of_a_random_prior(prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(prior, SMALL)
    shares = ("clip_top1", "sample_top1", "sample_top1_one", "sample_top1_two")
    for name in ("vae_psnr", *shares):
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
