"""What a run says at its start and its end: all of it, on one screen, from what it counts and times, and at no cost."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ids3d import launch
from ids3d.experiment import ImageJob, SceneJob, load
from ids3d.images import save_image
from ids3d.models.priors.stable_diffusion import StableDiffusion
from ids3d.models.renderers.occupancy import OccupancyRenderer
from ids3d.systems import overview
from ids3d.systems.estimate import Costs
from ids3d.systems.fields import load_field
from ids3d.systems.image_run import run as run_images
from ids3d.systems.plan import plan_of
from ids3d.systems.scene_edit_phases import SceneEditRun
from ids3d.systems.scene_run import run
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.work import Work
from tests import tiny_sd

Tiny = Callable[..., SceneJob]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILM = ("evaluate.film_frames=2", "evaluate.film_size=16")
PICTURES = ("edit=pictures", "edit.steps=4", "edit.rounds=2", "edit.fit_steps=3", "edit.views_per_batch=3")

ESTIMATED = (
    "from a step of the guidance on 2 views and one of 2,048 rays in an empty field (the slowest), timed just now; not "
    "counted: opening models, writing files"
)


@pytest.fixture
def loud() -> Iterator[None]:
    """As the command line sets the log: what ids3d says is shown."""
    own = logging.getLogger("ids3d")
    level = own.level
    own.setLevel(logging.INFO)
    yield
    own.setLevel(level)


def prepared(job: SceneJob) -> SceneEditRun:
    work = SceneEditRun(job, GracefulStop())
    work.prepare()
    return work


def screen_of(text: str, title: str) -> list[str]:
    """The lines of the screen below `title`: up to the last line of what the estimate rests on."""
    lines = text.splitlines()
    start = lines.index(title)
    rest = next(i for i in range(start, len(lines)) if "estimated from" in lines[i])
    end = next(i for i in range(rest, len(lines)) if "writing" in lines[i])
    return lines[start : end + 1]


def test_the_main_job_is_on_one_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample scene with the tabletop prior, as the README starts it; its steps are not made here."""
    monkeypatch.setattr(overview, "estimate_of", lambda *_: overview.Estimate("t" * 80, "m " * 50, ESTIMATED))
    job = load([CONFIGS / "ids-llff.yaml"], ["tracking=none", "tag=t", f"output={tmp_path}"])
    assert isinstance(job, SceneJob)
    overview.show_scene_run(prepared(job))
    lines = screen_of(capsys.readouterr().err, "ids-llff/t")
    assert len(lines) <= 24 and all(len(line) <= 100 or str(tmp_path) in line for line in lines)
    text = " ".join(" ".join(lines).split())
    for part in (
        "the sample scene that comes with ids3d, taken as llff, for its poses_bounds.npy",
        "24 views of 192x192 pixels, 21 to train on, 3 held out (000, 008, 016), true edit known",
        "forward-facing; near 0.307, far 2.44",
        "ndc, ",
        "grid of 4,020,192 numbers; rays: 1,200 steps of 2,048 rays",
        "“a red cube and a black cylinder on a wooden floor” to “a blue cube and a black cylinder",
        "tabletop, made for 128x128, computes in float32; edits at 128x128",
        "ids: w_cut=0 cut_patches=256 fpr_iterations=3 fpr_scale=1 fpr_step=fixed",
        "shared by all methods: guidance_scale=1.5 t_range=[0.8,0.98] t_range_end=[0.3,0.4] weighting=one",
        "pictures: 4 rounds of 6 steps on each of 21 views (8 at once) and 60 steps of fitting 2,048 rays",
        "cpu (",
        f"output {tmp_path}/ids-llff/t",
        f"--resume {tmp_path}/ids-llff/t",
    ):
        assert part in text, part


@pytest.mark.parametrize("edit", [PICTURES, ("edit=pull-back", "edit.steps=3", "edit.views_per_step=2")])
def test_what_is_counted_is_what_is_done(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, edit: tuple[str, ...]
) -> None:
    """Against a whole run, in which every call of prior, guidance and renderer is counted."""
    job = tiny(*edit, *FILM, "edit.validate_every=2", "reconstruct.validate_every=5", "guidance=dds")
    counted = [phase.work for phase in plan_of(prepared(job)).phases]
    assert all(isinstance(work, Work) for work in counted)
    expected = {
        key: sum(getattr(work, key) for work in counted)
        for key in ("guided", "coded", "trained_rays", "rendered_rays")
    }
    seen = dict.fromkeys(expected, 0)

    def counting(owner: Any, name: str, key: str, amount: Callable[..., int]) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            seen[key] += amount(*args)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    from ids3d.models.guidance.dds import DDS

    def coded(_: Any, images: torch.Tensor) -> int:
        return len(images) * (3 if images.requires_grad else 1)  # twice as much again on the way back

    counting(DDS, "__call__", "guided", lambda _, z_src, *__: len(z_src))
    counting(StableDiffusion, "encode", "coded", coded)
    counting(StableDiffusion, "decode", "coded", coded)
    counting(OccupancyRenderer, "render", "rendered_rays", lambda _, camera: camera.height * camera.width)
    counting(OccupancyRenderer, "backward", "trained_rays", lambda _, camera, d: camera.height * camera.width)
    original = OccupancyRenderer.forward

    def forward(self: OccupancyRenderer, rays: Any, generator: Any = None) -> Any:
        if generator is not None:  # only training shifts the steps of rays
            seen["trained_rays"] += len(rays.origins)
        return original(self, rays, generator)

    monkeypatch.setattr(OccupancyRenderer, "forward", forward)
    run(job)
    if "edit=pictures" in edit:  # a batch may be smaller than it is counted, the last one
        assert 0.8 * expected["guided"] <= seen.pop("guided") <= expected.pop("guided")
        for key in ("coded", "rendered_rays"):
            assert 0.8 * expected[key] <= seen.pop(key) <= expected.pop(key)
    assert seen == expected


def test_time_is_what_is_counted_times_what_was_timed() -> None:
    costs = Costs(guided=2.0, coded=0.5, trained_ray=0.01, rendered_ray=0.001)
    assert costs.seconds(Work("", guided=3, coded=4, trained_rays=100, rendered_rays=1000)) == pytest.approx(
        10
    )


def test_what_is_timed_changes_nothing(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], loud: None
) -> None:
    fields = []
    for name, level in (("a", logging.INFO), ("b", logging.WARNING)):
        logging.getLogger("ids3d").setLevel(level)
        job = tiny(f"output={tmp_path / name}", *PICTURES)
        run(job)
        fields.append(load_field(job.folder / "checkpoints" / "last.safetensors", "", "cpu")[0])
        assert ("estimated from" in capsys.readouterr().err) == (name == "a")
    tensors = [{key: value for key, value in field.items() if torch.is_tensor(value)} for field in fields]
    assert len(tensors[0]) > 2 and tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(value, tensors[1][key]) for key, value in tensors[0].items())


def test_a_run_that_goes_on_says_what_is_left(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], loud: None
) -> None:
    run(tiny("stage=reconstruct", "tag=first"))
    first = " ".join(capsys.readouterr().err.split())
    assert "12 steps of 256 rays" in first and "guidance" not in first.partition("memory")[0]
    run(tiny())
    second = " ".join(capsys.readouterr().err.split())
    assert (
        "is there already" in second
        and "reconstruct" not in second.partition(" time ")[2].partition("memory")[0]
    )


def test_what_is_not_known_is_said(tiny: Tiny, capsys: pytest.CaptureFixture[str], loud: None) -> None:
    """A way to edit of one's own, which does not count what it does; and the search for a region."""
    run(tiny("edit.type=tests.toys.toy_edit:ThroughImages", "edit.steps=2", "edit.lr=0.05"))
    text = " ".join(capsys.readouterr().err.split())
    assert "tests.toys.toy_edit:ThroughImages: 2 steps" in text
    assert re.search(r"time about \S+ (s|min) or less, and edit, which is not known: reconstruct", text)
    overview.show_scene_run(prepared(tiny("edit.region=difference", "tag=u")))
    assert "not counted: finding the region," in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("method", ["ids", "sdedit"])
def test_images_are_on_one_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loud: None, method: str
) -> None:
    save_image(tmp_path / "photo.png", torch.rand(20, 16, 3))
    job = load(
        [CONFIGS / "ids-image.yaml"],
        [
            *(f"output={tmp_path}", "tracking=none", "tag=t", "evaluate.clip=null", "evaluate.strip=0"),
            *("prior=stable-diffusion", f"prior.path={tiny_sd.folder('epsilon')}", f"guidance={method}"),
            *("edit.steps=2", f"data.image={tmp_path / 'photo.png'}"),
            *("prompt.source=a red cube", "prompt.target=a blue cube"),
            *(("guidance.steps=4",) if method == "sdedit" else ()),
        ],
    )
    assert isinstance(job, ImageJob)
    run_images(job)
    said = capsys.readouterr()
    lines = screen_of(said.err, "ids-image/t")
    assert len(lines) <= 24
    text = " ".join(" ".join(lines).split())
    assert "photo: 16x20 pixels, edited at 16x20" in text and "“a red cube” to “a blue cube”" in text
    assert ("8 predictions on each image" if method == "sdedit" else "2 steps of lr=0.488") in text
    for part in ("edit/psnr_to_source", "results", f"{job.folder}/report.html", f"{job.folder}/results.csv"):
        assert part in said.out


def test_the_end_names_figures_paths_and_commands(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], loud: None, tmp_path: Path
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(tiny(*FILM).to_yaml())
    launch.main(["--config", str(file), f"output={tmp_path / 'a b'}"])
    said, folder = capsys.readouterr().out, f"{tmp_path / 'a b'}/ids-llff/t"
    assert re.search(r"PSNR to the true edit inside its mask, dB +\d+\.\d\d +\d+\.\d\d", said)
    assert re.search(r"before +after", said) and f"{folder}/report.html" in said
    assert f"{folder}/video.mp4" in said
    for words in (f"--view '{folder}'", f"--export '{folder}' mesh", f"--test '{folder}'"):
        assert f"python launch.py {words}" in said


def test_quiet_is_the_figures_alone(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], loud: None, tmp_path: Path
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(tiny(*FILM).to_yaml())
    launch.main(["--config", str(file), "--quiet"])
    said = capsys.readouterr()
    ours = [line for line in said.err.splitlines() if "Loading weights" not in line and "shards" not in line]
    assert ours == []
    assert "PSNR to the true edit" in said.out and "--view" not in said.out
    assert logging.getLogger("ids3d").level == logging.INFO  # as it was
    launch.main(["--test", str(tiny().folder)])
    assert "evaluating: 2/2" in capsys.readouterr().err  # progress is back too
