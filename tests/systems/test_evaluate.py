"""The evaluation's CLIP figures, and the warning that a prior cannot know a scene or a prompt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ids3d.experiment import SceneJob
from ids3d.systems.evaluate.held_out import Evaluate
from ids3d.systems.prompts import warn_of_foreign_scene
from ids3d.systems.scene_edit_phases import SceneEditRun
from ids3d.systems.scene_phases import SceneRun
from ids3d.systems.stopping import GracefulStop
from tests import tiny_sd
from tests.systems import tiny_scene

Tiny = Callable[..., SceneJob]


class Blueness(torch.nn.Module):
    """In CLIP's place: how blue an image is."""

    def forward(self, images: torch.Tensor, captions: list[str]) -> torch.Tensor:
        assert captions == ["blue, please"]
        return images[:, 2].mean(dim=(1, 2)) - images[:, 0].mean(dim=(1, 2))


def test_clip_improved_is_the_share_of_views_that_rose(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluate, "_load_clip", lambda self: Blueness())
    experiment = tiny()
    with GracefulStop() as stop:
        job = SceneRun(experiment, stop)
    source, bluer = job.build_renderer(), job.build_renderer()
    with torch.no_grad():
        bluer.geometry.raw_appearance[:, 2] += 1
    for renderer in (source, bluer):
        renderer.before_step(0, torch.Generator())
    evaluation = Evaluate(
        Evaluate.Config(film_frames=0), job.scene, "blue, please", tmp_path, torch.device("cpu"), lambda: None
    )
    figures = evaluation.figures(source, bluer, 0)
    assert figures["edit/clip_improved"] == 1.0
    scores = [
        float((image[..., 2] - image[..., 0]).mean())
        for image in (bluer.render(job.scene.test.cameras[i]).rgb for i in range(2))
    ]
    assert figures["edit/clip_score"] == pytest.approx(sum(scores) / 2, abs=1e-6)
    assert evaluation.figures(bluer, source, 0)["edit/clip_improved"] == 0.0
    assert evaluation.figures(source, source, 0)["edit/clip_improved"] == 0.0


class Knowing:
    """A prior that knows red and blue cubes."""

    world = "tabletop"

    def unknown_words(self, text: str) -> list[str]:
        return [
            word for word in text.split() if word not in ["a", "red", "blue", "cube", "on", "wooden", "floor"]
        ]


@pytest.mark.parametrize(
    ("captions", "prompts", "expected"),
    [
        (True, ("a red cube", "a blue cube"), None),
        (True, ("a red cube", "a blue castle on fire"), "the words castle, fire"),
        (False, ("a red cube", "a blue cube"), "scenes like this one"),
        (False, ("a golden cape", "a golden cube"), "the words golden, cape and scenes like this one"),
    ],
)
def test_one_warning_names_what_the_prior_has_never_met(
    tiny: Tiny,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    captions: bool,
    prompts: tuple[str, str],
    expected: str | None,
) -> None:
    root = tiny_scene.write(tmp_path / "scene", captions=captions)
    scene = tiny(f"data.root={root}").data.build().load()
    with caplog.at_level(logging.WARNING, "ids3d.systems.prompts"):
        warn_of_foreign_scene(Knowing(), prompts, scene)
    messages = [r.getMessage() for r in caplog.records if r.name == "ids3d.systems.prompts"]
    if expected is None:
        assert messages == []
    else:
        (message,) = messages
        assert expected in message and "configs/prior/sd15.yaml" in message and "\n" not in message


def test_stable_diffusion_is_not_warned_of(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    assert tiny_sd.prior().unknown_words("xyzzy") == []
    with GracefulStop() as stop, caplog.at_level(logging.WARNING, "ids3d.systems.prompts"):
        SceneEditRun(tiny("prompt.target=xyzzy"), stop).load_prior()
    assert not caplog.records
