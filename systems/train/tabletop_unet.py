"""Train the tabletop prior's UNet and its text encoder: latent diffusion of tabletop pictures."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import CLIPTextModel, CLIPTokenizer

from ids3d.cli import launch_command
from ids3d.config.bounds import SHARE, WEIGHT, check_bounds
from ids3d.errors import UserError
from ids3d.progress import track
from ids3d.registry import register
from ids3d.seeding import generator_for
from ids3d.systems.train.towers import save_half, text_tower
from ids3d.systems.train.training import (
    VALIDATION,
    Show,
    TrainingConfig,
    as_images,
    autocast,
    chosen_world,
    described,
    grid,
    optimiser,
    training_pictures,
)
from ids3d.tabletop.captions import caption, paraphrase, vocabulary
from ids3d.tabletop.patches import WALL_CLASS, classes, patch_labels
from ids3d.tabletop.scene import PortableRandom, sample_scene
from ids3d.tabletop.tokenizer import LENGTH, build_tokenizer

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


class Batch(NamedTuple):
    """What a step trains on.

    Attributes:
        noisy, target: latents with noise, and the velocity to be found, (b, c, h, w).
        t, snr: timesteps (b,), and how much of each is signal.
        tokens: of the captions, (b, n).
        labels: what each latent pixel shows, (b, h·w) uint8.
    """

    noisy: Tensor
    target: Tensor
    t: Tensor
    snr: Tensor
    tokens: Tensor
    labels: Tensor


@register("train", "tabletop-unet")
class TabletopUNet(pl.LightningModule):
    """v-prediction on Stable Diffusion's schedule.

    The text encoder is trained together with the UNet, as that of latent diffusion is (Rombach et al. 2022, arXiv
    2112.10752, section 3.3), so that it learns whatever a picture needs, sides too; the CLIP is a judge and no more.

    Where little noise is left the loss is weighted down, as min-SNR does it (Hang et al. 2023, arXiv 2303.09556); at
    high noise, where captions are learned, it keeps the full weight of v-prediction.

    Since the world knows what is where, the features before the last level also learn to name what each latent pixel
    shows, from the noisy latent and the caption. That head is thrown away; aligning a diffusion model's features with
    what they depict makes it learn much faster (REPA, Yu et al. 2025, arXiv 2410.06940, who align with DINO's).
    """

    @dataclass
    class Config(TrainingConfig):
        widths: tuple[int, ...] = (48, 96, 192)  # channels of its levels
        empty_captions: float = 0.1  # share of captions left empty, for classifier-free guidance
        snr_gamma: float = 5.0  # γ of the weighting by signal-to-noise ratio: errors above it count less
        # What each step leaves of the former average of the weights; the average is what is saved.
        ema_decay: float = 0.999
        naming_weight: float = 0.3  # weight of the loss on naming what each latent pixel shows
        placed_captions: float = 0.5  # share of captions that say where things are, of those that could
        # Share of the timesteps that are drawn from the noisiest fifth, in which a caption decides what goes where.
        noisiest: float = 0.0
        middle: float = 0.8  # how much more often timesteps in the schedule's middle are drawn; 0: all alike
        # Weight of the error where objects are, and around them, beside 1 elsewhere: they are a tenth of a picture, and
        # what captions mostly speak of. Only where the noise leaves their places visible (SNR above `object_snr`):
        # there the weighted prediction is still the posterior mean.
        object_weight: float = 4.0
        object_snr: float = 0.09  # signal-to-noise ratio from which object_weight counts
        text_layers: int = 3  # layers of the text encoder
        text_width: int = 128  # width of the text encoder
        start: str | None = None  # a prior's folder whose UNet and text encoder to begin with
        sample_scale: float = 4.0  # guidance scale of the samples logged

        def __post_init__(self) -> None:
            super().__post_init__()
            check_bounds(self, widths="[16, 1e4]", empty_captions=SHARE, snr_gamma=WEIGHT, ema_decay=SHARE)
            check_bounds(
                self, naming_weight=WEIGHT, middle="[-1, 10]", object_weight=WEIGHT, object_snr=WEIGHT
            )
            check_bounds(self, placed_captions=SHARE, noisiest=SHARE)
            check_bounds(self, sample_scale="[0, 1e4]", text_layers="[1, 100]", text_width="[4, 1e4]")

    def __init__(self, cfg: Config, seed: int, show: Show) -> None:
        super().__init__()
        self.cfg, self.seed, self.show = cfg, seed, show
        folder = Path(cfg.into) / "vae"
        if not folder.exists():
            command = f"{launch_command()} --config configs/tabletop/vae.yaml"
            raise UserError(f"{folder} is missing: train it first ({command})")
        self.autoencoder = FrozenAutoencoder(folder)  # no module, and so in no checkpoint
        self.tokenizer = build_tokenizer(vocabulary(chosen_world(cfg)))
        self.denoiser = start_denoiser(cfg, self.autoencoder.channels, self.tokenizer)
        self.average = AveragedModel(self.denoiser, multi_avg_fn=get_ema_multi_avg_fn(cfg.ema_decay))
        self.denoiser.unet.up_blocks[-2].register_forward_hook(self._keep_features)
        self.name_pixels = nn.Linear(cfg.widths[-2], classes(chosen_world(cfg)))
        data = training_pictures(cfg)
        self.rgb, self.described = data.rgb, described(data, cfg)
        named = zip(data.ids, self.described, strict=True)
        self.labels = torch.stack(
            [patch_labels(torch.tensor(ids), scene, cfg.size // LATENT).byte() for ids, (scene, _) in named]
        )
        self.schedule = DDIMScheduler(**SCHEDULE)

    def on_fit_start(self) -> None:
        """Encode the pictures, on the device that is trained on."""
        self.autoencoder.to(self.device)
        self.latents = self.autoencoder.latents(self.rgb, Path(self.cfg.data))

    def batch_of_step(self, step: int) -> Batch:
        """A step's latents, captions, timesteps and noise."""
        generator = generator_for(self.seed, "train", step)
        index = torch.randint(len(self.latents), (self.cfg.batch_size,), generator=generator)
        rng = PortableRandom(step, f"captions/{self.seed}")
        empty, placed = self.cfg.empty_captions, self.cfg.placed_captions
        texts = [
            "" if rng.uniform(0, 1) < empty else paraphrase(scene, rng, holding, placed)
            for scene, holding in (self.described[i] for i in index.tolist())
        ]
        tokens = self.tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
        latents = torch.from_numpy(self.latents[index.numpy()]).float()
        noise = torch.randn(latents.shape, generator=generator)
        noisiest = round(self.cfg.noisiest * len(latents))
        t = torch.cat(
            [
                noisiest_timesteps(noisiest, generator),
                middle_timesteps(len(latents) - noisiest, self.cfg.middle, generator),
            ]
        )
        alphas = self.schedule.alphas_cumprod[t]
        return Batch(
            self.schedule.add_noise(latents, noise, t),
            self.schedule.get_velocity(latents, noise, t),
            t,
            alphas / (1 - alphas),
            tokens,
            self.labels[index],
        )

    def training_step(self, batch: Batch) -> Tensor:
        with autocast(self, self.cfg):
            predicted = self.denoiser(batch.noisy, batch.t, batch.tokens).float()
        weight = ((self.cfg.snr_gamma + 1) / (batch.snr + 1)).clamp(max=1)
        labels = batch.labels.long()
        error = (predicted - batch.target).square().mean(dim=1)
        naming = self._naming(labels)
        self.log_dict({"unet/mse": error.mean(), "unet/naming": naming}, batch_size=1, prog_bar=True)
        where = self._object_weights(labels, batch.snr > self.cfg.object_snr)
        return (weight * (where * error).mean(dim=(1, 2))).mean() + self.cfg.naming_weight * naming

    def _object_weights(self, labels: Tensor, visible: Tensor) -> Tensor:
        """Weights (b, h, w) of mean 1, greater at objects and next to them in those of b pictures marked visible."""
        objects = (labels > WALL_CLASS).float().unflatten(1, (LATENT, LATENT))
        around = functional.max_pool2d(objects[:, None], 3, stride=1, padding=1)[:, 0]
        weights = 1 + (self.cfg.object_weight - 1) * around * visible[:, None, None]
        return weights / weights.mean(dim=(1, 2), keepdim=True)

    def _keep_features(self, block: nn.Module, taken: object, features: Tensor) -> None:
        self._features = features

    def _naming(self, labels: Tensor) -> Tensor:
        """Cross entropy of labels (b, h·w) and what the forward pass's features say each latent pixel shows."""
        named = self.name_pixels(self._features.float().permute(0, 2, 3, 1))
        return functional.cross_entropy(named.flatten(0, 2), labels.flatten())

    def on_train_batch_end(self, *_: object) -> None:
        self.average.update_parameters(self.denoiser)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimiser(self, self.cfg)

    @torch.no_grad()
    def validation_step(self, step: int) -> None:
        """Sample held-out captions and save the pictures."""
        world = chosen_world(self.cfg)
        texts = [caption(sample_scene(seed, world=world)) for seed in VALIDATION[:16]]
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
        averaged = cast("Denoiser", self.average.module)
        made = StableDiffusionPipeline(
            vae=self.autoencoder.vae,
            text_encoder=averaged.text_encoder,
            tokenizer=self.tokenizer,
            unet=averaged.unet,
            scheduler=self.schedule,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).to(self.device)
        made.set_progress_bar_config(disable=True)
        return made

    def save(self) -> None:
        """Write the averages in half precision, the scheduler and the index: the folder is then a whole prior."""
        into = Path(self.cfg.into)
        averaged = cast("Denoiser", self.average.module)
        averaged.unet.half().save_pretrained(into / "unet")
        save_half(averaged.text_encoder, into / "text_encoder")
        averaged.float()
        self.tokenizer.save_pretrained(into / "tokenizer")
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


def middle_timesteps(count: int, middle: float, generator: torch.Generator) -> Tensor:
    """Timesteps (count,) in [0, 1000), denser in the middle, where shapes form, than where all or nothing is seen.

    "Mode sampling" of Esser et al. 2024 (arXiv 2403.03206, eq. 20). One quantile is drawn from each of as many equal
    parts as there are timesteps, which makes the loss less noisy.
    """
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t = 1 - u - middle * (torch.cos(math.pi / 2 * u).square() - 1 + u)
    return (t * 1000).long().clamp(0, 999)


def noisiest_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,) in [800, 1000), all alike, one from each of as many equal parts."""
    return (
        999 - (torch.rand(count, generator=generator) + torch.arange(count)).mul(200 / max(count, 1)).long()
    )


class Denoiser(nn.Module):
    """What is trained: the UNet, and the encoder of the captions that it sees."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """The velocity (b, c, h, w) of noisy latents at timesteps t (b,) under captions' tokens (b, n)."""
        text = self.text_encoder(tokens).last_hidden_state
        return cast("Tensor", self.unet(noisy, t, text, return_dict=False)[0])


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
