"""Train the tabletop prior's UNet and its text encoder: latent diffusion of tabletop pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import pytorch_lightning as pl
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ids3d.cli import launch_command
from ids3d.config.bounds import SHARE, WEIGHT, check_bounds
from ids3d.errors import UserError
from ids3d.registry import register
from ids3d.seeding import generator_for
from ids3d.systems.train.denoiser import LATENT, SCHEDULE, Denoiser, FrozenAutoencoder, start_denoiser
from ids3d.systems.train.graphs import Predictor
from ids3d.systems.train.sides import Sided
from ids3d.systems.train.timesteps import middle_timesteps, noisiest_timesteps
from ids3d.systems.train.towers import save_half
from ids3d.systems.train.training import (
    VALIDATION,
    Show,
    TrainingConfig,
    autocast,
    chosen_world,
    described,
    grid,
    optimiser,
    training_pictures,
)
from ids3d.tabletop.captions import SIDES, caption, paraphrase, vocabulary
from ids3d.tabletop.patches import WALL_CLASS, classes, patch_labels
from ids3d.tabletop.scene import PortableRandom, sample_scene
from ids3d.tabletop.tokenizer import LENGTH, build_tokenizer


class Batch(NamedTuple):
    """What a step trains on.

    Attributes:
        noisy, target: latents with noise, and the velocity to be found, (b, c, h, w).
        t, snr: timesteps (b,), and how much of each is signal.
        tokens: of the captions, (b, n).
        labels: what each latent pixel shows, (b, h·w) uint8.
        placed: tokens of more captions that say a side, (m, n).
        sides: the classes that those have to the left and to the right, (m, 2).
    """

    noisy: Tensor
    target: Tensor
    t: Tensor
    snr: Tensor
    tokens: Tensor
    labels: Tensor
    placed: Tensor
    sides: Tensor


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

    Which of two objects a caption has to the left is decided where almost nothing is seen through the noise, and by
    words that mean nothing alone: a UNet and a text encoder that both do not know it learn it from each other very
    slowly. So the text encoder also learns, from captions alone, to say at a caption's end what is to the left and
    what to the right (a head that is thrown away too), and a share of each step dwells on the noisiest timesteps of
    pictures whose captions say a side.
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
        # Share of a step's pictures that are those whose captions say a side, at the noisiest tenth of the timesteps.
        noisiest: float = 0.4
        placing_weight: float = 0.2  # weight of the text encoder's loss on saying what is on which side
        placing_captions: int = 64  # captions that say a side, for that loss in each step
        middle: float = 0.8  # how much more often timesteps in the schedule's middle are drawn; 0: all alike
        # Weight of the error where objects are, and around them, beside 1 elsewhere: they are a tenth of a picture, and
        # what captions mostly speak of. Only where the noise leaves their places visible (SNR above `object_snr`):
        # there the weighted prediction is still the posterior mean.
        object_weight: float = 4.0
        object_snr: float = 0.09  # signal-to-noise ratio from which object_weight counts
        text_layers: int = 3  # layers of the text encoder
        text_width: int = 128  # width of the text encoder
        # On a GPU: record the UNet's forward and backward pass once, and repeat them without waiting for Python.
        cuda_graph: bool = False
        start: str | None = None  # a prior's folder whose UNet and text encoder to begin with
        sample_scale: float = 4.0  # guidance scale of the samples logged

        def __post_init__(self) -> None:
            super().__post_init__()
            check_bounds(self, widths="[16, 1e4]", empty_captions=SHARE, snr_gamma=WEIGHT, ema_decay=SHARE)
            check_bounds(
                self, naming_weight=WEIGHT, middle="[-1, 10]", object_weight=WEIGHT, object_snr=WEIGHT
            )
            check_bounds(self, placed_captions=SHARE, noisiest=SHARE)
            check_bounds(self, placing_weight=WEIGHT, placing_captions="[0, 1e5]")
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
        self.predict = Predictor(self.denoiser.unet, cfg.half)
        self.name_pixels = nn.Linear(cfg.widths[-2], classes(chosen_world(cfg)))
        self.name_sides = nn.Linear(cfg.text_width, 2 * classes(chosen_world(cfg)))
        data = training_pictures(cfg)
        self.rgb, self.described = data.rgb, described(data, cfg)
        self.sided = torch.tensor(
            [i for i, (_, holding) in enumerate(self.described) if set(SIDES) & set(holding)],
            dtype=torch.long,
        )
        named = zip(data.ids, self.described, strict=True)
        self.labels = torch.stack(
            [patch_labels(torch.tensor(ids), scene, cfg.size // LATENT).byte() for ids, (scene, _) in named]
        )
        self.schedule = DDIMScheduler(**SCHEDULE)

    def on_fit_start(self) -> None:
        """Encode the pictures, on the device that is trained on, and record the UNet's passes if asked to."""
        if self.cfg.cuda_graph and self.device.type != "cuda":
            raise UserError("train.cuda_graph: there is no recording without device=cuda")
        self.autoencoder.to(self.device)
        self.latents = self.autoencoder.latents(self.rgb, Path(self.cfg.data))
        if self.cfg.cuda_graph:
            text = (LENGTH, self.cfg.text_width)
            self.predict.record(self.cfg.batch_size, self.autoencoder.channels, LATENT, text)

    def batch_of_step(self, step: int) -> Batch:
        """A step's latents, captions, timesteps and noise."""
        generator = generator_for(self.seed, "train", step)
        rng = PortableRandom(step, f"captions/{self.seed}")
        noisiest = round(self.cfg.noisiest * self.cfg.batch_size) if len(self.sided) else 0
        others = self.cfg.batch_size - noisiest
        sided = self.sided[torch.randint(max(len(self.sided), 1), (noisiest,), generator=generator)]
        index = torch.cat([sided, torch.randint(len(self.latents), (others,), generator=generator)])
        texts = [self._draw_sides(i, rng).right for i in sided.tolist()]
        texts += [self._caption(i, rng) for i in index[noisiest:].tolist()]
        latents = torch.from_numpy(self.latents[index.numpy()]).float()
        noise = torch.randn(latents.shape, generator=generator)
        t = torch.cat(
            [
                noisiest_timesteps(noisiest, generator),
                middle_timesteps(others, self.cfg.middle, generator),
            ]
        )
        alphas = self.schedule.alphas_cumprod[t]
        more = self.cfg.placing_captions if len(self.sided) else 0
        extra = self.sided[torch.randint(max(len(self.sided), 1), (more,), generator=generator)]
        placed = [self._draw_sides(i, rng) for i in extra.tolist()]
        return Batch(
            self.schedule.add_noise(latents, noise, t),
            self.schedule.get_velocity(latents, noise, t),
            t,
            alphas / (1 - alphas),
            self._tokens(texts),
            self.labels[index],
            self._tokens([drawn.right for drawn in placed]),
            torch.tensor([drawn.left_and_right for drawn in placed], dtype=torch.long).view(-1, 2),
        )

    def _caption(self, index: int, rng: PortableRandom) -> str:
        """Some caption of a picture, or none."""
        if rng.uniform(0, 1) < self.cfg.empty_captions:
            return ""
        scene, holding = self.described[index]
        return paraphrase(scene, rng, holding, self.cfg.placed_captions)

    def _draw_sides(self, index: int, rng: PortableRandom) -> Sided:
        """A caption of a picture that says a side."""
        scene, holding = self.described[index]
        return Sided.draw(index, scene, rng.choice([r for r in holding if r in SIDES]), rng)

    def _tokens(self, texts: list[str]) -> Tensor:
        if not texts:
            return torch.empty(0, LENGTH, dtype=torch.long)
        return self.tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids

    def training_step(self, batch: Batch) -> Tensor:
        with autocast(self, self.cfg):
            text = self.denoiser.text_encoder(batch.tokens).last_hidden_state
        predicted, features = self.predict(batch.noisy, batch.t, text.float())
        weight = ((self.cfg.snr_gamma + 1) / (batch.snr + 1)).clamp(max=1)
        labels = batch.labels.long()
        error = (predicted - batch.target).square().mean(dim=1)
        naming, placing = self._naming(features, labels), self._placing(batch.placed, batch.sides)
        losses = {"unet/mse": error.mean(), "unet/naming": naming, "unet/placing": placing}
        self.log_dict(losses, batch_size=1, prog_bar=True)
        where = self._object_weights(labels, batch.snr > self.cfg.object_snr)
        denoising = (weight * (where * error).mean(dim=(1, 2))).mean()
        return denoising + self.cfg.naming_weight * naming + self.cfg.placing_weight * placing

    def _object_weights(self, labels: Tensor, visible: Tensor) -> Tensor:
        """Weights (b, h, w) of mean 1, greater at objects and next to them in those of b pictures marked visible."""
        objects = (labels > WALL_CLASS).float().unflatten(1, (LATENT, LATENT))
        around = functional.max_pool2d(objects[:, None], 3, stride=1, padding=1)[:, 0]
        weights = 1 + (self.cfg.object_weight - 1) * around * visible[:, None, None]
        return weights / weights.mean(dim=(1, 2), keepdim=True)

    def _naming(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of labels (b, h·w) and what the features say each latent pixel shows."""
        named = self.name_pixels(features.permute(0, 2, 3, 1))
        wrong = functional.cross_entropy(named.flatten(0, 2), labels.flatten(), reduction="none")
        everywhere = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        return (self._object_weights(labels, everywhere).flatten() * wrong).mean()

    def _placing(self, tokens: Tensor, sides: Tensor) -> Tensor:
        """Cross entropy of what captions (m, n) have on either side (m, 2), and what their last tokens say."""
        if not len(tokens):
            return self.name_sides.weight.new_zeros(())
        read = self.denoiser.text_encoder(tokens).last_hidden_state[:, -1]
        return functional.cross_entropy(self.name_sides(read.float()).unflatten(1, (2, -1)).mT, sides)

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
