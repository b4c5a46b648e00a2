"""Train the tabletop prior's UNet: latent diffusion of tabletop pictures, led by the CLIP's reading of captions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextModel, CLIPTokenizer

from ids3d.errors import UserError
from ids3d.progress import track
from ids3d.registry import register
from ids3d.tabletop.captions import caption, paraphrase
from ids3d.tabletop.scene import Dice, sample_scene
from ids3d.tabletop.tokenizer import LENGTH
from systems.training import (
    VALIDATION,
    Show,
    TrainingConfig,
    as_images,
    grid,
    optimiser,
    step_generator,
    training_pictures,
)

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


@register("system", "tabletop-unet")
class TabletopUNet(pl.LightningModule):
    """v-prediction on Stable Diffusion's schedule.

    Where little noise is left the loss is weighted down, as min-SNR does it (Hang et al. 2023, arXiv 2303.09556); at
    high noise, where captions are learned, it keeps the full weight of v-prediction.
    """

    @dataclass
    class Config(TrainingConfig):
        widths: tuple[int, ...] = (48, 96, 192)
        empty_captions: float = 0.1  # share of captions left empty, for classifier-free guidance
        snr_gamma: float = 5.0
        ema_decay: float = 0.995
        compile: bool = False  # train through torch.compile: faster, needs a C++ compiler
        sample_scale: float = 4.0  # guidance scale of the samples logged

    def __init__(self, cfg: Config, seed: int, show: Show) -> None:
        super().__init__()
        self.cfg, self.seed, self.show = cfg, seed, show
        self.unet = build_unet(cfg)
        self.average = AveragedModel(self.unet, multi_avg_fn=get_ema_multi_avg_fn(cfg.ema_decay))
        self.predict = torch.compile(self.unet) if cfg.compile else self.unet
        into = Path(cfg.into)
        for part, training in (("vae", "vae"), ("text_encoder", "clip")):
            if not (into / part).exists():
                command = f"python launch.py --config configs/tabletop/{training}.yaml"
                raise UserError(f"{into / part} is missing: train it first ({command})")
        # Frozen, and kept out of the module's own parameters and checkpoints.
        self.frozen = Frozen(into)
        data = training_pictures(cfg)
        self.scenes = [sample_scene(seed) for seed in data.seeds]
        self.latents = self.frozen.latents(data.rgb, Path(cfg.data))
        self.schedule = DDIMScheduler(**SCHEDULE)

    def training_step(self, step: int) -> Tensor:
        generator = step_generator(self.seed, self.global_step)
        index = torch.randint(len(self.latents), (self.cfg.batch_size,), generator=generator)
        dice = Dice(self.global_step, f"captions/{self.seed}")
        texts = [
            "" if dice.uniform(0, 1) < self.cfg.empty_captions else paraphrase(self.scenes[i], dice)
            for i in index.tolist()
        ]
        text = self.frozen.embed(texts).to(self.device)
        latents = torch.from_numpy(self.latents[index.numpy()]).float()
        noise = torch.randn(latents.shape, generator=generator)
        # One timestep from each of as many equal parts of the schedule as there are latents: less noise in the loss.
        part = torch.rand(len(latents), generator=generator)
        t = ((torch.arange(len(latents)) + part) / len(latents) * 1000).long()
        noisy, target = (
            self.schedule.add_noise(latents, noise, t),
            self.schedule.get_velocity(latents, noise, t),
        )
        predicted = self.predict(noisy.to(self.device), t.to(self.device), text, return_dict=False)[0]
        alphas = self.schedule.alphas_cumprod[t]
        snr = alphas / (1 - alphas)
        weight = ((self.cfg.snr_gamma + 1) / (snr + 1)).clamp(max=1).to(self.device)
        error = (predicted - target.to(self.device)).square().mean(dim=(1, 2, 3))
        self.log("unet/mse", error.mean(), batch_size=1)
        return (weight * error).mean()

    def on_train_batch_end(self, *_: object) -> None:
        self.average.update_parameters(self.unet)

    def configure_optimizers(self) -> dict[str, object]:
        return optimiser(self, self.cfg)

    @torch.no_grad()
    def validation_step(self, step: int) -> None:
        """Sample held-out captions and save the pictures."""
        texts = [caption(sample_scene(seed)) for seed in VALIDATION[:16]]
        images = self.pipeline()(
            prompt=texts,
            num_inference_steps=25,
            guidance_scale=self.cfg.sample_scale,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        self.show(grid(images, columns=8), self.global_step)

    def pipeline(self) -> StableDiffusionPipeline:
        """The prior as it stands, as diffusers' own pipeline."""
        made = StableDiffusionPipeline(
            vae=self.frozen.vae,
            text_encoder=self.frozen.text_encoder,
            tokenizer=self.frozen.tokenizer,
            unet=self.average.module,
            scheduler=self.schedule,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).to(self.device)
        made.set_progress_bar_config(disable=True)
        return made

    def save(self) -> None:
        """Write the averaged UNet in half precision, the scheduler and the index: the folder is then a whole prior."""
        into = Path(self.cfg.into)
        self.average.module.half().save_pretrained(into / "unet")
        self.average.module.float()
        self.schedule.save_pretrained(into / "scheduler")
        index = {
            "_class_name": "StableDiffusionPipeline",
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        (into / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def build_unet(cfg: TabletopUNet.Config) -> UNet2DConditionModel:
    """Attention, to itself and to the caption, in the middle and throughout the decoder half."""
    levels = len(cfg.widths)
    return UNet2DConditionModel(
        sample_size=cfg.size // 4,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        block_out_channels=cfg.widths,
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


class Frozen:
    """The trained autoencoder and text encoder that the UNet builds on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").requires_grad_(False).eval()
        self.text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        self.text_encoder.requires_grad_(False).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")

    @torch.no_grad()
    def embed(self, texts: list[str]) -> Tensor:
        """Captions as (n, tokens, width)."""
        tokens = self.tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt")
        return self.text_encoder(tokens.input_ids).last_hidden_state

    @torch.no_grad()
    def latents(self, rgb: np.ndarray, cache: Path) -> np.ndarray:
        """The pictures' scaled latents (n, 4, h, w) float16, encoded once for an autoencoder and kept in the cache."""
        weights = (self.folder / "vae" / "diffusion_pytorch_model.safetensors").stat()
        path = cache / f"latents-{len(rgb)}-{rgb.shape[1]}-{int(weights.st_mtime)}.npy"
        if not path.exists():
            parts = []
            for start in track(range(0, len(rgb), 64), "encoding the pictures", unit="batch"):
                mean = self.vae.encode(as_images(rgb[start : start + 64])).latent_dist.mean
                parts.append((mean * self.vae.config.scaling_factor).half().numpy())
            unfinished = path.with_suffix(".unfinished.npy")
            np.save(unfinished, np.concatenate(parts))
            unfinished.replace(path)
        return np.load(path)
