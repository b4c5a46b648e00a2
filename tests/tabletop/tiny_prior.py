"""A tabletop prior of random weights: the layout of the one that ships, built and run in a moment."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextModel

from ids3d.tabletop.captions import vocabulary
from ids3d.tabletop.clip import save_preprocessing
from ids3d.tabletop.tokenizer import LENGTH, build_tokenizer
from ids3d.tabletop.world import LIGHT, World, save_world


def build(folder: Path, world: World = LIGHT) -> Path:
    """Write the folder of a prior of pictures of 64 pixels; the same weights every time."""
    tokenizer = build_tokenizer(vocabulary(world))
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**tower, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    vision = {**tower, "image_size": 64, "patch_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            norm_num_groups=4,
            sample_size=64,
            mid_block_add_attention=False,
        )
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        )
    tower_alone = CLIPTextModel(clip.config.text_config)
    tower_alone.load_state_dict(clip.text_model.state_dict())
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=tower_alone,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(prediction_type="v_prediction", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    clip.save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    save_preprocessing(folder / "clip", 64)
    save_world(folder, world, 64)
    return folder
