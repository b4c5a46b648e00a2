"""The tabletop prior's networks: a frozen autoencoder, and the UNet and text encoder trained on its latents."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ids3d.errors import UserError
from ids3d.progress import track
from ids3d.systems.train.towers import text_tower
from ids3d.systems.train.training import as_images

if TYPE_CHECKING:
    from ids3d.systems.train.tabletop_unet import TabletopUNet

LATENT = 16  # the latents' side: the autoencoder divides the pictures' by 8
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


class Denoiser(nn.Module):
    """What is trained: the UNet, and the encoder of the captions that it sees."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder


def start_denoiser(cfg: TabletopUNet.Config, channels: int, tokenizer: CLIPTokenizer) -> Denoiser:
    """New networks, or those that training starts from. Raises UserError if they are missing or do not fit.

    Args:
        cfg: the widths, and where to start from.
        channels: of the latents.
        tokenizer: of the captions.
    """
    tower = text_tower(cfg.text_width, cfg.text_layers, tokenizer)
    made = Denoiser(build_unet(cfg, channels), CLIPTextModel(tower))
    if cfg.start is not None:
        start = Path(cfg.start)
        try:
            unet = UNet2DConditionModel.from_pretrained(start / "unet", local_files_only=True)
            text_encoder = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
            made.unet.load_state_dict(unet.state_dict())
            made.text_encoder.load_state_dict(text_encoder.state_dict())
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"train.start: no UNet and text encoder of these widths in {cfg.start}"
            ) from error
    return made


def build_unet(cfg: TabletopUNet.Config, channels: int) -> UNet2DConditionModel:
    """Attention, to itself and to the caption, in the middle, throughout the decoder half, and at the encoder's top.

    Args:
        cfg: the widths.
        channels: of the latents.
    """
    levels = len(cfg.widths)
    return UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D", *("DownBlock2D",) * (levels - 1)),
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        block_out_channels=cfg.widths,
        layers_per_block=1,
        cross_attention_dim=cfg.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


class FrozenAutoencoder:
    """The trained autoencoder that the UNet builds on."""

    def __init__(self, folder: Path) -> None:
        self.weights = folder / "diffusion_pytorch_model.safetensors"
        self.vae = AutoencoderKL.from_pretrained(folder).requires_grad_(False).eval()
        self.channels: int = self.vae.config.latent_channels

    def to(self, device: torch.device) -> None:
        """Move it."""
        self.vae.to(device)

    @torch.no_grad()
    def latents(self, rgb: np.ndarray, cache: Path) -> np.ndarray:
        """The pictures' scaled latents (n, c, h, w) float16, encoded once for an autoencoder and kept in the cache."""
        known = hashlib.sha256(self.weights.read_bytes()).hexdigest()[:12]
        path = cache / f"latents-{len(rgb)}-{rgb.shape[1]}-{known}.npy"
        if not path.exists():
            parts = []
            for start in track(range(0, len(rgb), 64), "encoding the pictures", unit="batch"):
                images = as_images(rgb[start : start + 64], self.vae.device)
                mean = self.vae.encode(images).latent_dist.mean
                parts.append((mean * self.vae.config.scaling_factor).half().cpu().numpy())
            unfinished = path.with_suffix(".unfinished.npy")
            np.save(unfinished, np.concatenate(parts))
            unfinished.replace(path)
        return np.load(path)
