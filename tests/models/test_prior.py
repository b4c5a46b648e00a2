"""The Stable Diffusion prior against diffusers' own parts, its errors, and its half precision."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from ids3d.errors import UserError
from ids3d.models.priors import loading
from ids3d.models.priors.precision import run_in
from ids3d.models.priors.protocol import Prompt
from ids3d.models.priors.stable_diffusion import StableDiffusion
from ids3d.models.priors.tabletop import Tabletop
from ids3d.registry import find
from tests import tiny_sd

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
Z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
T = torch.tensor([100, 900])
PROMPTS = ["a red cube", "a blue cone on a wooden floor"]


@pytest.fixture(scope="module")
def prior() -> StableDiffusion:
    return tiny_sd.prior("epsilon")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkpoint that may be damaged."""
    return Path(shutil.copytree(tiny_sd.folder("epsilon"), tmp_path / "sd"))


def load(path: Path | str, **settings) -> StableDiffusion:
    return StableDiffusion(StableDiffusion.Config(path=str(path), **settings))


def test_encode_and_decode_are_those_of_diffusers(prior):
    vae = AutoencoderKL.from_pretrained(tiny_sd.folder("epsilon"), subfolder="vae")
    with torch.no_grad():
        z = vae.encode(IMAGES * 2 - 1).latent_dist.mode() * 0.5
        images = (vae.decode(z / 0.5).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(prior.encode(IMAGES), z)
    torch.testing.assert_close(prior.decode(z), images)
    assert (prior.image_size, prior.latent_channels, prior.downsample) == (16, 4, 2)


def test_embeddings_are_those_of_diffusers_pipeline(prior):
    parts = (
        prior.vae,
        prior.text_encoder,
        prior.tokenizer,
        prior.unet,
        PNDMScheduler(steps_offset=1, skip_prk_steps=True),
    )
    pipeline = StableDiffusionPipeline(
        *parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    with torch.no_grad():
        cond, null = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    prompt = prior.embed(PROMPTS)
    torch.testing.assert_close(prompt.cond, cond)
    torch.testing.assert_close(prompt.null, null)
    assert not prompt.cond.requires_grad


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("w", [0.0, 1.0, 7.5])
def test_classifier_free_guidance(prediction_type, w):
    prior = tiny_sd.prior(prediction_type)
    unet = UNet2DConditionModel.from_pretrained(tiny_sd.folder(prediction_type), subfolder="unet")
    prompt = prior.embed(PROMPTS)
    with torch.no_grad():
        cond, null = (unet(Z, T, text).sample for text in (prompt.cond, prompt.null))
    if prediction_type == "v_prediction":
        bar = prior.schedule.alpha_bar(T, Z)
        cond, null = (bar.sqrt() * v + (1 - bar).sqrt() * Z for v in (cond, null))
    # Single precision, in another batch; ω multiplies the difference.
    torch.testing.assert_close(
        prior.predict_noise(Z, T, prompt, w), (1 - w) * null + w * cond, rtol=1e-4, atol=1e-5
    )


def test_the_unet_is_called_once_and_on_no_more_than_it_needs(prior):
    sizes = []
    hook = prior.unet.register_forward_pre_hook(lambda _module, args: sizes.append(len(args[0])))
    prompt = prior.embed(PROMPTS)
    for w in (7.5, 1.0, 0.0):
        prior.predict_noise(Z, T, prompt, w)
    hook.remove()
    assert sizes == [4, 2, 2]


def test_one_prompt_and_one_timestep_serve_all_latents(prior):
    one = prior.predict_noise(Z, torch.tensor(300), prior.embed(["a red cube"]), 7.5)
    each = prior.predict_noise(Z, torch.tensor([300, 300]), prior.embed(["a red cube"] * 2), 7.5)
    torch.testing.assert_close(one, each)
    with pytest.raises(ValueError, match="3 prompts for 2 latents"):
        prior.predict_noise(Z, T, prior.embed(["a", "b", "c"]), 7.5)


def test_gradients_reach_pixels_and_noisy_latents_but_no_parameter(prior):
    images = IMAGES.clone().requires_grad_()
    z_t = prior.encode(images)
    prior.predict_noise(z_t, T, prior.embed(PROMPTS), 7.5).sum().backward()
    assert images.grad is not None and images.grad.abs().max() > 0
    networks = (prior.vae, prior.unet, prior.text_encoder)
    assert not any(
        p.requires_grad or p.grad is not None for network in networks for p in network.parameters()
    )
    assert not any(network.training for network in networks)


def test_an_owner_does_not_save_the_prior(prior):
    owner = torch.nn.Linear(1, 1)
    owner.prior = prior
    assert set(owner.state_dict()) == {"weight", "bias"}


def test_prompts_are_batches():
    a = Prompt(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.long))
    assert len(Prompt.cat([a, a.expand(4)])) == 5 and len(Prompt.cat([a, a])[1:]) == 1


# ---- words


def test_a_long_prompt_is_cut_off_with_a_warning(prior):
    words = "a red cube and a blue cone and a red cone and a blue cube on a wooden floor"
    with pytest.warns(UserWarning, match="'cube on a wooden floor' was cut off"):
        long = prior.embed([words])
    torch.testing.assert_close(long.cond, prior.embed([words.removesuffix(" cube on a wooden floor")]).cond)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior.embed([" ".join(words.split()[:14])])  # 14 and the two marks are what fits


def test_unknown_words():
    tabletop = Tabletop(Tabletop.Config(path=str(tiny_sd.folder("epsilon"))))
    assert tabletop.unknown_words("A red cube, and a Blue cone on a wooden floor.") == []
    assert tabletop.unknown_words("a Zebra on 3 red zebra cubes, coned") == ["zebra", "3", "cubes", "coned"]
    assert tiny_sd.prior("epsilon").unknown_words("a zebra") == []


def test_both_names_are_registered():
    assert find("prior", "stable-diffusion") is StableDiffusion and find("prior", "tabletop") is Tabletop


# ---- half precision


def test_half_precision_is_close_and_keeps_the_gradient(prior):
    half = load(tiny_sd.folder("epsilon"), dtype="float16")
    assert next(half.unet.parameters()).dtype == torch.float16
    noise, expected = (p.predict_noise(Z, T, p.embed(PROMPTS), 7.5) for p in (half, prior))
    assert noise.dtype == torch.float32 and (noise - expected).norm() < 0.02 * expected.norm()
    assert (half.decode(Z) - prior.decode(Z)).abs().max() < 0.02
    grads = []
    for p in (half, prior):
        images = IMAGES.clone().requires_grad_()
        z = p.encode(images)
        assert z.dtype == torch.float32
        z.backward(1e-9 * Z)  # far below what half precision holds
        grads.append(images.grad)
    assert (grads[0] - grads[1]).norm() < 0.02 * grads[1].norm()


def test_run_in_half_neither_underflows_nor_overflows():
    for size in (1e-12, 1.0, 1e12):
        x = torch.linspace(-1, 1, 7).requires_grad_()
        run_in(torch.float16, lambda x: 3 * x, x).backward(torch.full((7,), size))
        # Half precision has 11 bits.
        torch.testing.assert_close(x.grad, torch.full((7,), 3 * size), rtol=1e-3, atol=0)


# ---- what may be wrong with a checkpoint


def test_a_missing_folder():
    with pytest.raises(UserError, match="no such folder"):
        load("/nowhere/sd")


def test_a_file(copy):
    with pytest.raises(UserError, match="a file, where a folder"):
        load(copy / "unet" / "config.json")


def test_a_folder_of_another_layout(copy):
    shutil.rmtree(copy / "unet")
    with pytest.raises(UserError, match=r"unet/config\.json is missing"):
        load(copy)


def test_a_hub_that_cannot_be_reached(monkeypatch, tmp_path):
    def offline(*_args, **_kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(loading.HfApi, "model_info", offline)
    with pytest.raises(UserError, match=r"nobody/nothing: no such folder, the hub can't be reached"):
        load("nobody/nothing")


def test_missing_weights_and_missing_files(copy):
    file = copy / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    weights.pop(next(name for name in weights if "layers.0.mlp.fc1.weight" in name))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="text_encoder lacks 1 of its weights"):
        load(copy)
    file.unlink()
    with pytest.raises(UserError, match="text_encoder can't be loaded"):
        load(copy)


def test_a_missing_vocabulary(copy):
    for file in (copy / "tokenizer").glob("*"):
        if file.name != "tokenizer_config.json":
            file.unlink()
    with pytest.raises(UserError, match="tokenizer"):
        load(copy)


def test_parts_of_different_models(copy):
    config = copy / "vae" / "config.json"
    small = AutoencoderKL.from_pretrained(copy / "vae")
    AutoencoderKL.from_config({**small.config, "latent_channels": 8}).save_pretrained(copy / "vae")
    assert json.loads(config.read_text())["latent_channels"] == 8
    with pytest.raises(UserError, match="takes 4 channels, its latents have 8"):
        load(copy)


def test_an_image_whose_sides_do_not_fit(prior):
    with pytest.raises(ValueError, match="multiples of 2"):
        prior.encode(torch.zeros(1, 3, 15, 16))


def test_any_scheduler_and_old_names_of_weights_are_read(copy):
    """Published checkpoints name another sampler, and their text encoders' weights begin with `text_model.`"""
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    ).save_pretrained(copy / "scheduler")
    file = copy / "text_encoder" / "model.safetensors"
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(file).items()
    }
    weights["text_model.embeddings.position_ids"] = torch.arange(tiny_sd.TOKENS)[None]
    save_file(weights, file, metadata={"format": "pt"})
    old, new = load(copy), tiny_sd.prior("epsilon")
    torch.testing.assert_close(old.embed(PROMPTS).cond, new.embed(PROMPTS).cond)
    torch.testing.assert_close(old.schedule.alpha_bar(T, Z), new.schedule.alpha_bar(T, Z))


def test_the_tabletop_prior_follows_edges_that_stay_and_stable_diffusion_as_it_is_told() -> None:
    texts = ("a red cube on a wooden floor", "a blue cube on a wooden floor", "a red cone on a wooden floor")
    tabletop = Tabletop(Tabletop.Config())
    assert tabletop.follow_edges(*texts[:2]) == 2.0 and tabletop.follow_edges(texts[0], texts[2]) == 0.0
    told = load(tiny_sd.folder("epsilon"), follow_edges=1.5)
    assert told.follow_edges(*texts[:2]) == told.follow_edges(texts[0], texts[2]) == 1.5
    with pytest.raises(ValueError, match="follow_edges"):
        StableDiffusion.Config(follow_edges=-1.0)
