"""Measures the tabletop models on scenes that their training never met."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

import ids3d
from ids3d.errors import UserError
from ids3d.metrics import ClipScore, psnr
from ids3d.progress import track
from ids3d.tabletop.candidates import candidates, pick
from ids3d.tabletop.captions import caption
from ids3d.tabletop.clip import load_clip
from ids3d.tabletop.dataset import render_seed
from ids3d.tabletop.scene import HELD_OUT, PortableRandom, TabletopScene, sample_scene
from ids3d.tabletop.sheet import Cell, in_short

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PRIOR = Path(ids3d.__file__).parent / "weights" / "tabletop"
PARTS = ("vae", "clip", "samples")
SIZE = 64  # pixels
PROMPTS = HELD_OUT + 100_000
"""The first seed of the scenes whose captions are sampled; those of true renders start at HELD_OUT."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How much is measured, and how samples are drawn."""

    vae_pictures: int = 256
    clip_pictures: int = 512
    prompts: int = 256  # half of them with two objects, half with one
    steps: int = 25  # of DDIM
    guidance_scale: float = 4.0
    seed: int = 0  # of the samples' noise
    batch: int = 32  # prompts that are sampled at once; no figure depends on it but by rounding


@dataclass
class EvaluationResult:
    """The figures by name, and the samples for a contact sheet."""

    figures: dict[str, object] = field(default_factory=dict)
    samples: list[Cell] = field(default_factory=list)

    def add_share(self, name: str, right: Sequence[bool]) -> None:
        """A share with Wilson's 95 % interval."""
        share, n, z = sum(right) / len(right), len(right), 1.96
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        self.figures[name] = share
        self.figures[f"{name}_95"] = [max(0.0, middle - half), min(1.0, middle + half)]

    def add_mean(self, name: str, values: Sequence[float]) -> None:
        """A mean with the 95 % interval of a normal distribution."""
        mean = statistics.fmean(values)
        half = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
        self.figures[name] = mean
        self.figures[f"{name}_95"] = [mean - half, mean + half]


def evaluate(
    prior: Path = PRIOR,
    cfg: EvaluationConfig | None = None,
    parts: Collection[str] = PARTS,
    device: str = "cpu",
) -> EvaluationResult:
    """Measure a prior's folder.

    Figures (each with `<name>_95`, its 95 % interval):
        vae_psnr: dB, the mean over true renders of the PSNR of their reconstruction by the autoencoder.
        clip_top1: the share of true renders whose caption the CLIP picks among 64 (`candidates`).
        sample_top1: the same of pictures sampled from captions; sample_top1_one and sample_top1_two: of those with one
            object and with two.

    Args:
        prior: the folder, in diffusers' layout, with the CLIP in `clip/`.
        cfg: how much is measured.
        parts: which of PARTS.
        device: where the models run.

    Raises:
        UserError: a model that a part needs is missing.
    """
    cfg, report, start = cfg or EvaluationConfig(), EvaluationResult(), time.monotonic()
    if not prior.is_dir():
        raise UserError(f"no prior at {prior}: there is no such folder (configs/tabletop/ trains one)")
    if "vae" in parts:
        _need(prior / "vae" / "config.json", "vae")
    if "samples" in parts:
        _need(prior / "model_index.json", "unet")
    clip = load_clip(prior).to(device) if {"clip", "samples"} & set(parts) else None
    truth = _true_pictures(
        max(cfg.vae_pictures if "vae" in parts else 0, cfg.clip_pictures if "clip" in parts else 0)
    )
    if "vae" in parts:
        report.add_mean("vae_psnr", _vae_psnr(prior, truth[: cfg.vae_pictures], device))
    if "clip" in parts and clip is not None:
        report.add_share("clip_top1", _right_captions(clip, truth[: cfg.clip_pictures]))
    if "samples" in parts and clip is not None:
        _judge_samples(report, prior, clip, cfg, device)
    report.figures |= {**asdict(cfg), "prior": str(prior), "seconds": round(time.monotonic() - start, 1)}
    return report


def _true_pictures(count: int) -> Tensor:
    """Images (count, 3, h, w) in [0, 1] of the first held-out scenes."""
    if count == 0:
        return torch.empty(0, 3, SIZE, SIZE)
    seeds = track(range(HELD_OUT, HELD_OUT + count), "rendering", unit="picture")
    return (
        torch.from_numpy(np.stack([render_seed(seed, SIZE)[0] for seed in seeds])).permute(0, 3, 1, 2).float()
        / 255
    )


@torch.no_grad()
def _vae_psnr(prior: Path, pictures: Tensor, device: str) -> list[float]:
    from diffusers import AutoencoderKL  # seconds to import: only who evaluates pays

    vae = AutoencoderKL.from_pretrained(prior / "vae").to(device, torch.float32).eval()
    values = []
    for images in track(pictures.split(32), "reconstructing", unit="batch"):
        latents = vae.encode(images.to(device) * 2 - 1).latent_dist.mean
        decoded = (vae.decode(latents).sample.cpu() / 2 + 0.5).clamp(0, 1)
        values += [psnr(a.permute(1, 2, 0), b.permute(1, 2, 0)) for a, b in zip(decoded, images, strict=True)]
    return values


def _right_captions(clip: ClipScore, pictures: Tensor) -> list[bool]:
    seeds = range(HELD_OUT, HELD_OUT + len(pictures))
    choices = [candidates(sample_scene(seed), PortableRandom(seed, "candidates")) for seed in seeds]
    return [picked == 0 for picked in pick(clip, pictures, choices)]


def _judge_samples(
    report: EvaluationResult, prior: Path, clip: ClipScore, cfg: EvaluationConfig, device: str
) -> None:
    scenes = prompted_scenes(cfg.prompts)
    choices = [candidates(scene, PortableRandom(PROMPTS + i, "candidates")) for i, scene in enumerate(scenes)]
    pictures = sample(load_pipeline(prior, device), [caption(scene) for scene in scenes], cfg)
    picked = pick(clip, pictures, choices)
    right = [index == 0 for index in picked]
    report.add_share("sample_top1", right)
    for name, count in (("one", 1), ("two", 2)):
        of_these = [r for r, scene in zip(right, scenes, strict=True) if len(scene.objects) == count]
        report.add_share(f"sample_top1_{name}", of_these)
    for image, scene, index, among in zip(pictures, scenes, picked, choices, strict=True):
        alarm = () if index == 0 else ("the CLIP says", *in_short(among[index]))
        report.samples.append(Cell(image.permute(1, 2, 0), in_short(scene), alarm))


def prompted_scenes(count: int) -> list[TabletopScene]:
    """Held-out scenes whose captions are sampled: one object, two, one, two, ..."""
    return [sample_scene(PROMPTS + i, 1 + i % 2) for i in range(count)]


def load_pipeline(prior: Path, device: str) -> StableDiffusionPipeline:
    """The prior as diffusers' own pipeline, in single precision, with DDIM."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(prior, local_files_only=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, torch.float32)


@torch.no_grad()
def sample(pipeline: StableDiffusionPipeline, texts: Sequence[str], cfg: EvaluationConfig) -> Tensor:
    """A picture for each text, (n, 3, h, w) in [0, 1] on the CPU; the i-th noise depends on cfg.seed and i alone."""
    pictures = []
    for start in track(range(0, len(texts), cfg.batch), "sampling", unit="batch"):
        batch = range(start, min(start + cfg.batch, len(texts)))
        made = pipeline(
            prompt=[texts[i] for i in batch],
            num_inference_steps=cfg.steps,
            guidance_scale=cfg.guidance_scale,
            generator=[torch.Generator().manual_seed(cfg.seed * 1_000_003 + i) for i in batch],
            output_type="pt",
        ).images
        pictures.append(made.float().cpu())
    return torch.cat(pictures)


def _need(file: Path, trained_by: str) -> None:
    if not file.is_file():
        raise UserError(
            f"there is no {file}: train it first (configs/tabletop/{trained_by}.yaml), or choose --prior"
        )
