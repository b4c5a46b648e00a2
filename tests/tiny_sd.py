"""A Stable Diffusion folder of random weights, small enough to be built and run in a moment.

Latents 4x8x8, images 16x16, 16 tokens of 32 numbers; every part is of the class that a real checkpoint has, and is
written by its own `save_pretrained`. The attention's weights are doubled, so that the prompt makes itself felt.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ids3d.models.priors.stable_diffusion import StableDiffusion

WORDS = ("a", "red", "blue", "cube", "cone", "and", "on", "wooden", "floor")
TOKENS = 16
PredictionType = Literal["epsilon", "v_prediction", "sample"]


def build_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer whose vocabulary is WORDS, each merged from its letters, and those letters."""
    letters = sorted({letter for word in WORDS for letter in word})
    vocabulary = [*letters, *[f"{letter}</w>" for letter in letters]]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.append(parts[0])
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS})
    )


def build(folder: Path, prediction_type: PredictionType = "epsilon") -> Path:
    """Write the checkpoint into `folder`; the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                if ".attn" in name or "proj_out" in name:
                    parameter *= 2
        vae = AutoencoderKL(
            block_out_channels=(16, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=16,
            scaling_factor=0.5,
        )
        build_tokenizer(folder / "tokenizer")
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=4,
                max_position_embeddings=TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
    )
    for name, part in {
        "unet": unet,
        "vae": vae,
        "text_encoder": text_encoder,
        "scheduler": scheduler,
    }.items():
        part.save_pretrained(folder / name)
    return folder


@functools.cache
def _root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tiny-sd-")  # removed when the interpreter ends


@functools.cache
def folder(prediction_type: PredictionType) -> Path:
    """The checkpoint's folder, built once a session. Not to be written to."""
    return build(Path(_root().name) / prediction_type, prediction_type)


def prior(
    prediction_type: PredictionType = "epsilon",
    dtype: Literal["float32", "float64", "float16"] = "float32",
) -> StableDiffusion:
    """A fresh prior on the tiny checkpoint."""
    return StableDiffusion(StableDiffusion.Config(path=str(folder(prediction_type)), dtype=dtype))
