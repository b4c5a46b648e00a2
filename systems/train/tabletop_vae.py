"""Train the tabletop prior's autoencoder: diffusers' AutoencoderKL, whose latents are eight times smaller."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from diffusers import AutoencoderKL
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import peak_signal_noise_ratio

from ids3d.config.bounds import WEIGHT, check_bounds
from ids3d.errors import UserError
from ids3d.registry import register
from ids3d.seeding import generator_for
from ids3d.systems.train.training import (
    Show,
    TrainingConfig,
    as_images,
    autocast,
    grid,
    optimiser,
    training_pictures,
    validation_pictures,
)
from ids3d.tabletop.render import FIRST_OBJECT


class Batch(NamedTuple):
    """What a step trains on.

    Attributes:
        images: (b, h, w, 3) uint8.
        objects: (b, h, w) bool, where there are any.
        noise: (b, c, h / f, w / f), of the latents.
    """

    images: Tensor
    objects: Tensor
    noise: Tensor


@register("train", "tabletop-vae")
class TabletopVAE(pl.LightningModule):
    """Reconstruction in L1 and in L1 of the pictures' differences, with a light pull of latents to a unit normal."""

    @dataclass
    class Config(TrainingConfig):
        # Channels of its levels; each but the first halves the picture's sides.
        widths: tuple[int, ...] = (16, 32, 64, 64)
        channels: int = 8  # channels of the latents
        kl_weight: float = 1e-3  # weight of the mean KL divergence of a latent element
        edge_weight: float = 0.5  # weight of the L1 of horizontal and vertical differences
        # Weight of the error where objects are, and around them, beside 1 elsewhere. Floors have more of what can be
        # measured in dB, but edits and captions are about objects, whose edges say whether they are cubes or cylinders.
        object_weight: float = 1.0
        start: str | None = None  # an autoencoder's folder to begin with, such as ids3d/weights/tabletop/vae
        decoder_only: bool = False  # the latents stay what they are, which a UNet has been trained on

        def __post_init__(self) -> None:
            super().__post_init__()
            check_bounds(self, widths="[8, 1e4]", channels="[1, 1000]")
            check_bounds(self, kl_weight=WEIGHT, edge_weight=WEIGHT, object_weight=WEIGHT)

    def __init__(self, cfg: Config, seed: int, show: Show) -> None:
        super().__init__()
        self.cfg, self.seed, self.show = cfg, seed, show
        levels = len(cfg.widths)
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=cfg.widths,
            layers_per_block=1,
            latent_channels=cfg.channels,
            norm_num_groups=8,
            sample_size=cfg.size,
            mid_block_add_attention=False,
        )
        if cfg.start is not None:
            try:
                start = AutoencoderKL.from_pretrained(
                    cfg.start, local_files_only=True, torch_dtype=torch.float32
                )
                self.vae.load_state_dict(start.state_dict())
            except (OSError, RuntimeError) as error:
                raise UserError(f"train.start: no autoencoder of these widths in {cfg.start}") from error
            self.vae.register_to_config(scaling_factor=start.config.scaling_factor)
        if cfg.decoder_only:
            for part in (self.vae.encoder, self.vae.quant_conv):
                part.requires_grad_(False)
        data = training_pictures(cfg)
        self.pictures, self.ids = data.rgb, data.ids
        self.held_out = as_images(validation_pictures(cfg).rgb[:64])

    def batch_of_step(self, step: int) -> Batch:
        """A step's pictures, half of the batches mirrored."""
        generator = generator_for(self.seed, "train", step)
        index = torch.randint(len(self.pictures), (self.cfg.batch_size,), generator=generator)
        images = torch.from_numpy(self.pictures[index.numpy()])
        objects = torch.from_numpy(self.ids[index.numpy()]) >= FIRST_OBJECT
        if torch.rand((), generator=generator) < 0.5:
            images, objects = images.flip(2), objects.flip(2)
        side = self.cfg.size >> len(self.cfg.widths) - 1
        noise = torch.randn(len(index), self.cfg.channels, side, side, generator=generator)
        return Batch(images, objects, noise)

    def training_step(self, batch: Batch) -> Tensor:
        images, objects = as_images(batch.images, self.device), batch.objects
        with autocast(self, self.cfg):
            posterior = self.vae.encode(images).latent_dist
            decoded = self.vae.decode(posterior.mean + posterior.std * batch.noise).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        weights = object_weights(objects, self.cfg.object_weight)
        error = (weights * (decoded - images).abs()).mean()
        edges = sum(
            (weights.narrow(dim, 0, self.cfg.size - 1) * (decoded - images).diff(dim=dim).abs()).mean()
            for dim in (-1, -2)
        )
        loss = error + self.cfg.edge_weight * edges + self.cfg.kl_weight * kl
        self.log_dict({"vae/loss": loss, "vae/kl": kl}, batch_size=1)
        return loss

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Images through the autoencoder, by the mean of the latents' distribution; both in [-1, 1]."""
        return self.vae.decode(self.vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)

    def validation_step(self, step: int) -> None:
        decoded = self.reconstruct(self.held_out.to(self.device)).cpu()
        psnr = peak_signal_noise_ratio(
            decoded, self.held_out, data_range=2.0, reduction="elementwise_mean", dim=(1, 2, 3)
        )
        self.log("vae/psnr", psnr, prog_bar=True, batch_size=1)
        self.show(grid(torch.cat([self.held_out[:8], decoded[:8]]) / 2 + 0.5, columns=8), self.global_step)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return optimiser(self, self.cfg)

    @torch.no_grad()
    def save(self) -> None:
        """Write the autoencoder in half precision, its scaling factor set so that latents have unit variance."""
        if not self.cfg.decoder_only:
            sample = as_images(self.pictures[:512], self.device)
            std = self.vae.encode(sample).latent_dist.mean.std()
            self.vae.register_to_config(scaling_factor=round(float(1 / std), 5))
        folder = Path(self.cfg.into) / "vae"
        self.vae.half().save_pretrained(folder)
        self.vae.float()


def object_weights(objects: Tensor, weight: float) -> Tensor:
    """Weights (n, 1, h, w) of mean 1 in each picture: greater by `weight` at objects (n, h, w) and 3 pixels around."""
    around = functional.max_pool2d(objects[:, None].float(), 7, stride=1, padding=3)
    weights = 1 + (weight - 1) * around
    return weights / weights.mean(dim=(2, 3), keepdim=True)
