"""The trainings of the tabletop prior, from nothing to a folder that diffusers loads, with a few pictures and steps."""

from __future__ import annotations

import math
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTextModel

from ids3d.cameras import project
from ids3d.errors import Interrupted, UserError
from ids3d.experiment import TrainingJob, load
from ids3d.systems.train import training
from ids3d.systems.train.sides import Sided, columns
from ids3d.systems.train.tabletop_unet import TabletopUNet
from ids3d.systems.train.tabletop_vae import TabletopVAE, object_weights
from ids3d.tabletop.patches import WALL_CLASS, class_of
from ids3d.tabletop.scene import (
    SHAPES,
    Object,
    PortableRandom,
    TabletopScene,
    sample_camera,
    sample_scene,
)
from ids3d.tabletop.world import LIGHT, world_of


def test_objects_and_what_is_around_them_weigh_more() -> None:
    objects = torch.zeros(2, 20, 24, dtype=torch.bool)
    objects[0, 8:10, 5] = True
    weights = object_weights(objects, 4.0)
    heavy = torch.zeros(20, 24, dtype=torch.bool)
    heavy[5:13, 2:9] = True  # three pixels more on each side
    mean = (4 * 56 + 480 - 56) / 480
    torch.testing.assert_close(weights[0, 0], torch.where(heavy, 4 / mean, 1 / mean))
    assert torch.equal(weights[1], torch.ones(1, 20, 24))


def test_how_far_to_the_right_a_class_is() -> None:
    labels = torch.tensor([[0, 0, 1, 1], [0, 2, 2, 1], [0, 0, 2, 1], [0, 2, 2, 2]]).flatten()[None]
    expected = [-1 * 4 + -1 / 3 * 2, 1 / 3 + 3 * 1, -1 / 3 * 2 + 1 / 3 * 3 + 1, 0]
    counts = [6, 4, 6, 1]
    torch.testing.assert_close(columns(labels, 4)[0], torch.tensor(expected) / torch.tensor(counts))


def test_a_caption_of_a_side_and_its_opposite() -> None:
    """Whichever object is named first, the right caption says what holds, the wrong one its contrary."""
    cube = Object("cube", "red", 0.1, 0.0, 0.0)
    cone = Object("cone", "blue", 0.1, 0.5, 0.0)
    scene = TabletopScene(objects=(cube, cone), floor="pink", world=LIGHT)
    drawn = [Sided.draw(3, scene, "to the left of", PortableRandom(seed, "test")) for seed in range(20)]
    assert {sided.left_and_right for sided in drawn} == {(class_of(cube, scene), class_of(cone, scene))}
    firsts = set()
    for sided in drawn:
        texts = re.findall(
            r"a (red|blue) \w+ to the (left|right) of a (red|blue)", sided.right + "; " + sided.wrong
        )
        assert texts[0] in (("red", "left", "blue"), ("blue", "right", "red"))
        assert texts[1] == (texts[0][0], {"left": "right", "right": "left"}[texts[0][1]], texts[0][2])
        firsts.add(texts[0][0])
    assert firsts == {"red", "blue"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered pictures, for all trainings here."""
    return tmp_path_factory.mktemp("pictures")


def train(model: str, data: Path, root: Path, *overrides: str) -> Path:
    """Trains one of the models for a few steps; the folder that it was saved into."""
    few = (
        "train.steps=3",
        "train.batch_size=4",
        "train.pictures=8",
        "train.warmup=1",
        "train.sample_every=2",
    )
    where = (f"train.data={data}", f"train.into={root / 'prior'}", f"output={root / 'out'}", "tracking=none")
    job = load([f"configs/tabletop/{model}.yaml"], [*few, *where, "device=cpu", *overrides])
    assert isinstance(job, TrainingJob)
    training.run(job)
    return root / "prior"


@pytest.mark.slow
def test_three_trainings_make_a_prior_and_its_judge(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vae is missing: train it first"):
        train("unet", data, tmp_path)
    train("vae", data, tmp_path)
    prior = train("unet", data, tmp_path)
    train("clip", data, tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(prior, local_files_only=True).to("cpu", torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a red cube", num_inference_steps=2, output_type="pt").images.shape == (1, 3, 128, 128)
    assert CLIPModel.from_pretrained(prior / "clip").config.projection_dim == 128
    assert world_of(prior) == (LIGHT, 128)
    again = train("unet", data, tmp_path, f"train.start={prior}", "train.steps=1", "train.learning_rate=1e-9")
    started = CLIPTextModel.from_pretrained(again / "text_encoder").state_dict()
    for name, values in pipeline.text_encoder.state_dict().items():
        torch.testing.assert_close(started[name].float(), values, atol=1e-4, rtol=1e-3)
    with pytest.raises(UserError, match=r"train\.start: no UNet and text encoder of these widths"):
        train("unet", data, tmp_path, f"train.start={tmp_path}")


@pytest.mark.slow
def test_the_text_encoder_learns_with_the_unet(data: Path, tmp_path: Path) -> None:
    """Three steps change every weight that a caption passes through on its way into the picture."""
    train("vae", data, tmp_path)
    one = train("unet", data, tmp_path, "train.steps=1", "train.ema_decay=0")
    before = load_file(one / "text_encoder" / "model.safetensors")
    after = load_file(
        train("unet", data, tmp_path, "train.ema_decay=0", "tag=longer")
        / "text_encoder"
        / "model.safetensors"
    )
    still = [name for name, values in before.items() if torch.equal(values, after[name])]
    assert not still, still


@pytest.mark.slow
def test_a_share_of_each_step_dwells_on_sides(data: Path, tmp_path: Path) -> None:
    """The noisiest pictures come with captions that say rightly what is on which side, and so do those without one."""
    train("vae", data, tmp_path)
    given = (f"train.data={data}", f"train.into={tmp_path / 'prior'}", "train.pictures=8", "device=cpu")
    more = ("train.batch_size=8", "train.noisiest=0.5", "train.placing_captions=20", "train.middle=0")
    job = load(["configs/tabletop/unet.yaml"], [*given, *more, f"output={tmp_path}"])
    assert isinstance(job, TrainingJob)
    module = job.train.build(job.seed, lambda *_: None)
    module.on_fit_start()
    batch = module.batch_of_step(5)
    assert batch.t.shape == (8,) and (batch.t[:4] >= 900).all() and (batch.t[4:] < 900).any()
    read = module.tokenizer.batch_decode(
        torch.cat([batch.tokens[:4], batch.placed]), skip_special_tokens=True
    )
    said = set()
    for caption in read:
        words = re.fullmatch(
            r".*?(\w+) (\w+) to the (left|right) of an? (\w+) (\w+)(?: standing)?(?: on.*)?", caption
        )
        assert words, caption
        first, other = words.group(1, 2), words.group(4, 5)
        said.add((first, other) if words.group(3) == "left" else (other, first))
    true = set()
    for seed in range(8):
        scene = sample_scene(seed)
        camera = sample_camera(seed, scene, 128)
        if len(scene.objects) == 2:  # their columns, by projecting what is above their feet
            feet = torch.tensor([[o.x, o.y, 0.1] for o in scene.objects])
            places = zip(project(camera, feet)[0][0, :, 0].tolist(), scene.objects, strict=True)
            ordered = [(o.colour, o.shape) for _, o in sorted(places, key=lambda place: place[0])]
            true.add(tuple(ordered))
    assert said and said <= true
    names = [f"{shape} {colour}" for shape in SHAPES for colour in LIGHT.colours]
    for caption, (left, right) in zip(read[4:], batch.sides.tolist(), strict=True):
        shapes = [names[c - WALL_CLASS - 1].split()[::-1] for c in (left, right)]
        assert tuple(map(tuple, shapes)) in said and all(" ".join(s) in caption for s in shapes)


@pytest.mark.slow
def test_a_step_of_the_clip_shows_as_many_pictures_of_each_number_of_objects(
    data: Path, tmp_path: Path
) -> None:
    counts = [len(sample_scene(seed).objects) for seed in range(40)]
    assert 0 < counts.count(3) < 10  # by themselves three are rare
    given = (f"train.data={data}", f"train.into={tmp_path / 'prior'}", "train.pictures=40", "device=cpu")
    job = load(
        ["configs/tabletop/clip.yaml"], [*given, "train.batch_size=9", f"output={tmp_path}", "tracking=none"]
    )
    assert isinstance(job, TrainingJob)
    module = job.train.build(job.seed, lambda *_: None)
    batch = module.batch_of_step(5)
    known = {module.rgb[i].tobytes(): count for i, count in enumerate(counts)}
    shown = [
        known.get(image.numpy().tobytes()) or known[image.flip(1).numpy().tobytes()] for image in batch.images
    ]
    assert sorted(shown) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    again = [image.numpy().tobytes() for image in module.batch_of_step(6).images]
    assert again != [image.numpy().tobytes() for image in batch.images]


def test_what_captions_have_on_either_side_is_read_at_their_end() -> None:
    """The loss by hand, of a head that names the left by the last token's first feature, the right by its second."""
    hidden = torch.tensor([[[9.0, 9.0], [1.0, 0.0]], [[9.0, 9.0], [0.0, 2.0]]])
    head = torch.nn.Linear(2, 6, bias=False)  # three classes to the left, three to the right
    head.weight.data = torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 0], [0, 1.0], [0, 0]])
    encoder = SimpleNamespace(text_encoder=lambda tokens: SimpleNamespace(last_hidden_state=hidden))
    module: Any = SimpleNamespace(name_sides=head, denoiser=encoder)
    found = TabletopUNet._placing(module, torch.zeros(2, 2, dtype=torch.long), torch.tensor([[0, 1], [2, 1]]))
    e = math.e
    right = [e / (e + 2), 1 / 3, 1 / 3, e**2 / (e**2 + 2)]  # the first caption's two sides, the second's
    assert found.item() == pytest.approx(-sum(map(math.log, right)) / 4)
    assert TabletopUNet._placing(module, torch.empty(0, 2), torch.empty(0, 2)).item() == 0


@pytest.mark.slow
def test_a_decoder_alone_can_be_trained_on(data: Path, tmp_path: Path) -> None:
    """The latents stay to the bit what a UNet has been trained on."""
    first = train("vae", data, tmp_path / "first") / "vae"
    again = train("vae", data, tmp_path / "again", f"train.start={first}", "train.decoder_only=true") / "vae"
    before, after = (load_file(f / "diffusion_pytorch_model.safetensors") for f in (first, again))
    for name, values in before.items():
        latents = name.startswith(("encoder.", "quant_conv."))
        assert torch.equal(values, after[name]) == latents or not values.any(), name
    scales = {AutoencoderKL.from_pretrained(f).config.scaling_factor for f in (first, again)}
    assert len(scales) == 1
    with pytest.raises(UserError, match=r"train\.start: no autoencoder of these widths"):
        train("vae", data, tmp_path / "third", f"train.start={tmp_path}")


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_to_the_same_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train("vae", data, tmp_path / "whole") / "vae"
    original, calls = TabletopVAE.training_step, [0]

    def stopping(self: TabletopVAE, step: int) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(TabletopVAE, "training_step", stopping)
        with pytest.raises(Interrupted):
            train("vae", data, tmp_path / "stopped")
    so_far = load_file(tmp_path / "stopped" / "prior" / "vae" / "diffusion_pytorch_model.safetensors")
    stopped = train("vae", data, tmp_path / "stopped") / "vae"
    one, other = (load_file(f / "diffusion_pytorch_model.safetensors") for f in (whole, stopped))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert one.keys() == so_far.keys() and not all(torch.equal(one[k], so_far[k]) for k in one)


def test_a_world_that_there_is_not(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.world: there is no 'dark', but former and light"):
        train("vae", data, tmp_path, "train.world=dark")
