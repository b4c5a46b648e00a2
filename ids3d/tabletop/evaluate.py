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
from ids3d.report.stats import Estimate, mean_interval, share_interval
from ids3d.tabletop.candidates import candidates, pick
from ids3d.tabletop.captions import OPPOSITE, SIDES, caption, place, relations
from ids3d.tabletop.clip import load_clip
from ids3d.tabletop.dataset import render_seed
from ids3d.tabletop.edit_quality import edit_quality
from ids3d.tabletop.scene import HELD_OUT, PortableRandom, TabletopScene, sample_camera, sample_scene
from ids3d.tabletop.sheet import Cell, in_short
from ids3d.tabletop.world import LIGHT, World, world_of

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PRIOR = Path(ids3d.__file__).parent / "weights" / "tabletop"
PARTS = ("vae", "clip", "samples", "edits")
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
    edits: int = 64  # recolourings, and as many reshapes
    edit_steps: int | None = None  # as many as the configs for editing images say


@dataclass
class EvaluationResult:
    """The figures by name, and the samples for a contact sheet."""

    figures: dict[str, object] = field(default_factory=dict)
    samples: list[Cell] = field(default_factory=list)

    def add_share(self, name: str, right: Sequence[bool]) -> None:
        """A share with its 95 % interval."""
        self._add(name, share_interval(right))

    def add_spread(self, name: str, values: Sequence[float]) -> None:
        """A median, with the 95 % interval that order statistics give, and the bound of the worst tenth."""
        ranked, half = sorted(values), 0.98 * math.sqrt(len(values))
        low, high = (round(len(ranked) / 2 + side * half) for side in (-1, 1))
        self.figures[name] = statistics.median(ranked)
        self.figures[f"{name}_95"] = [ranked[max(0, low - 1)], ranked[min(len(ranked) - 1, high)]]
        self.figures[f"{name}_worst_tenth"] = ranked[len(ranked) // 10]

    def add_mean(self, name: str, values: Sequence[float]) -> None:
        """A mean with its 95 % interval."""
        self._add(name, mean_interval(values))

    def _add(self, name: str, estimate: Estimate) -> None:
        self.figures[name] = estimate.mean
        self.figures[f"{name}_95"] = [estimate.low, estimate.high]


def evaluate(
    prior: Path = PRIOR,
    cfg: EvaluationConfig | None = None,
    parts: Collection[str] = PARTS,
    device: str = "cpu",
) -> EvaluationResult:
    """Measure a prior's folder.

    Figures (each with `<name>_95`, its 95 % interval):
        vae_psnr: dB, the mean over true renders of the PSNR of their reconstruction by the autoencoder;
            vae_psnr_<floor>: over those with that floor.
        clip_top1: the share of true renders whose caption the CLIP picks among 64 (`candidates`).
        clip_where: of those with a caption that says left or right, the share in which it tells this from the opposite.
        sample_top1: the same as clip_top1 of pictures sampled from captions; sample_top1_one and sample_top1_two: of
            those with one object and with two. Where the world's captions say so, every other one with two says left
            or right.
        sample_where: the same as clip_where of those samples.
        edit_gain, edit_outside: dB, medians over held-out recolourings (`EditQuality`); edit_gain_worst_tenth: a tenth
            gain less. reshape_gain, reshape_outside: of reshapes.

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
    if "edits" in parts:
        _need(prior / "model_index.json", "unet")
    clip = load_clip(prior).to(device) if {"clip", "samples"} & set(parts) else None
    world, size = world_of(prior)
    wanted = {"vae": cfg.vae_pictures, "clip": cfg.clip_pictures}
    truth = _true_pictures(max((wanted.get(part, 0) for part in parts), default=0), world, size)
    if "vae" in parts:
        _judge_autoencoder(report, prior, truth[: cfg.vae_pictures], world, device)
    if "clip" in parts and clip is not None:
        _judge_clip(report, clip, truth[: cfg.clip_pictures], world)
    if "samples" in parts and clip is not None:
        _judge_samples(report, prior, clip, cfg, world, device)
    if "edits" in parts:
        for kind, name in (("recolour", "edit"), ("reshape", "reshape")):
            found = edit_quality(prior, world, size, kind, cfg.edits, cfg.edit_steps, device)
            report.add_spread(f"{name}_gain", [edit.gain for edit in found])
            report.add_spread(f"{name}_outside", [edit.outside for edit in found])
    more = {"world": world.name, "prior": str(prior), "seconds": round(time.monotonic() - start, 1)}
    report.figures |= {**asdict(cfg), **more}
    return report


def _true_pictures(count: int, world: World, size: int) -> Tensor:
    """Images (count, 3, size, size) in [0, 1] of the first held-out scenes."""
    if count == 0:
        return torch.empty(0, 3, size, size)
    seeds = track(range(HELD_OUT, HELD_OUT + count), "rendering", unit="picture")
    rendered = np.stack([render_seed(seed, size, world.name)[0] for seed in seeds])
    return torch.from_numpy(rendered).permute(0, 3, 1, 2).float() / 255


def _judge_autoencoder(
    report: EvaluationResult, prior: Path, pictures: Tensor, world: World, device: str
) -> None:
    values = _vae_psnr(prior, pictures, device)
    report.add_mean("vae_psnr", values)
    floors = [sample_scene(HELD_OUT + i, world=world).floor for i in range(len(values))]
    for floor in dict.fromkeys(floors):
        of_it = [value for value, its in zip(values, floors, strict=True) if its == floor]
        report.add_mean(f"vae_psnr_{floor}", of_it)


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


def _judge_clip(report: EvaluationResult, clip: ClipScore, pictures: Tensor, world: World) -> None:
    seeds = range(HELD_OUT, HELD_OUT + len(pictures))
    scenes = [sample_scene(seed, world=world) for seed in seeds]
    choices = [
        candidates(scene, PortableRandom(seed, "candidates"))
        for seed, scene in zip(seeds, scenes, strict=True)
    ]
    report.add_share("clip_top1", [picked == 0 for picked in pick(clip, pictures, choices)])
    sides = [side_of(scene, seed) for seed, scene in zip(seeds, scenes, strict=True)]
    judge_sides(report, "clip_where", clip, pictures, scenes, sides)


def _judge_samples(
    report: EvaluationResult, prior: Path, clip: ClipScore, cfg: EvaluationConfig, world: World, device: str
) -> None:
    scenes = prompted_scenes(cfg.prompts, world)
    sides = [side_of(scene, PROMPTS + i) if i % 4 == 3 else None for i, scene in enumerate(scenes)]
    texts = [
        caption(scene) if side is None else place(scene, side)
        for scene, side in zip(scenes, sides, strict=True)
    ]
    choices = [candidates(scene, PortableRandom(PROMPTS + i, "candidates")) for i, scene in enumerate(scenes)]
    pictures = sample(load_pipeline(prior, device), texts, cfg)
    picked = pick(clip, pictures, choices)
    right = [index == 0 for index in picked]
    report.add_share("sample_top1", right)
    for name, count in (("one", 1), ("two", 2)):
        of_these = [r for r, scene in zip(right, scenes, strict=True) if len(scene.objects) == count]
        report.add_share(f"sample_top1_{name}", of_these)
    judge_sides(report, "sample_where", clip, pictures, scenes, sides)
    for image, scene, index, among in zip(pictures, scenes, picked, choices, strict=True):
        alarm = () if index == 0 else ("the CLIP says", *in_short(among[index]))
        report.samples.append(Cell(image.permute(1, 2, 0), in_short(scene), alarm))


def side_of(scene: TabletopScene, seed: int) -> str | None:
    """On which side the first object is of the second, in the view of the seed's camera; None where it is not said."""
    said = [relation for relation in relations(scene, sample_camera(seed, scene)) if relation in SIDES]
    return said[0] if said else None


def judge_sides(
    report: EvaluationResult,
    name: str,
    clip: ClipScore,
    pictures: Tensor,
    scenes: Sequence[TabletopScene],
    sides: Sequence[str | None],
) -> None:
    """Add the share of pictures, of those whose side is said, that are more like it than like the opposite."""
    said = [
        (i, place(scene, s), place(scene, OPPOSITE[s]))
        for i, (scene, s) in enumerate(zip(scenes, sides, strict=True))
        if s
    ]
    if not said:
        return
    indices, right, wrong = zip(*said, strict=True)
    seen = torch.cat([clip.embed_pictures(part).cpu() for part in pictures[list(indices)].split(64)])
    like, unlike = ((seen * clip.embed_captions(texts).cpu()).sum(1) for texts in (right, wrong))
    report.add_share(name, (like > unlike).tolist())


def prompted_scenes(count: int, world: World = LIGHT) -> list[TabletopScene]:
    """Held-out scenes whose captions are sampled: one object, two, one, two, ..."""
    return [sample_scene(PROMPTS + i, 1 + i % 2, world) for i in range(count)]


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
