"""Read a checkpoint in diffusers' layout, with errors that say what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from transformers import CLIPTextModel, CLIPTokenizer

from ids3d.errors import UserError
from ids3d.progress import QUICK, track
from ids3d.reading import given_path
from ids3d.schedule import DiffusionSchedule

# The files without which a folder is not a Stable Diffusion checkpoint of versions 1 and 2 in diffusers' layout.
LAYOUT = (
    "vae/config.json",
    "unet/config.json",
    "text_encoder/config.json",
    "tokenizer/tokenizer_config.json",
    "scheduler/scheduler_config.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint: frozen, in evaluation mode, on the CPU."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    schedule: DiffusionSchedule


def load_checkpoint(path: str, dtype: torch.dtype, variant: str | None = None) -> Checkpoint:
    """Load the checkpoint in the folder `path`, or of the hub name `path` ("owner/name") where there is no such folder.

    `variant` picks the files `*.<variant>.safetensors`. A hub name is looked up in the local cache when the hub can't
    be reached. Raises UserError when there is nothing to load, something is missing, or the model is of another kind.
    """
    source, options = _locate(path)
    options |= {"variant": variant} if variant else {}
    settings = {key: value for key, value in options.items() if key != "variant"}
    parts: dict[str, tuple[Any, dict[str, Any]]] = {
        "unet": (UNet2DConditionModel, {"torch_dtype": dtype, **options}),
        "vae": (AutoencoderKL, {"torch_dtype": dtype, **options}),
        "text_encoder": (CLIPTextModel, {"dtype": dtype, **options}),
        "tokenizer": (CLIPTokenizer, settings),
        # Whatever sampler the checkpoint names, DDPM's class reads the noise schedule out of its settings.
        "scheduler": (DDPMScheduler, settings),
    }
    unet, vae, text_encoder, tokenizer, scheduler = (
        _load(cls, source, part, **how)
        for part, (cls, how) in track(
            parts.items(), "opening the prior", len(parts), unit="part", delay=QUICK
        )
    )
    _check(path, unet, vae, text_encoder, tokenizer)
    try:
        # the product in double precision: β_t, a difference of neighbours, would otherwise lose half its digits
        alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), dim=0)
        schedule = DiffusionSchedule(alphas_cumprod, scheduler.config.prediction_type)
    except ValueError as error:
        raise UserError(f"prior {path}: {error} (scheduler/scheduler_config.json)") from None
    for part in (vae, unet, text_encoder):
        part.requires_grad_(False).eval()
    return Checkpoint(vae, unet, text_encoder, tokenizer, schedule)


def _locate(path: str) -> tuple[str, dict[str, Any]]:
    """Return where to load from, and the options to load with. Raises UserError."""
    folder = given_path(path, "prior.path")
    if folder.is_dir():
        missing = [name for name in LAYOUT if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"prior {folder}: not a Stable Diffusion folder in diffusers' layout, {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing; diffusers converts a single-file checkpoint: "
                "StableDiffusionPipeline.from_single_file(...).save_pretrained(folder)"
            )
        return str(folder), {"local_files_only": True}
    if folder.exists():
        raise UserError(
            f"prior {folder}: a file, where a folder in diffusers' layout (vae/, unet/, ...) is expected"
        )
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        raise UserError(
            f"prior {folder}: no such folder, and not a hub name (owner/name) either; set prior.path"
        )
    try:
        # Does not retry, as every file of the download would, for half a minute.
        HfApi().model_info(path, timeout=10)
    except GatedRepoError:
        raise UserError(
            f"prior {path}: its hub page asks to accept terms; do so there, then run `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"prior {path}: no such folder here, and no such model on the hub; set prior.path"
        ) from None
    except Exception:  # the kinds of network failure depend on the version of the hub's client
        return path, {"local_files_only": True}
    return path, {"local_files_only": False}


def _load(cls: Any, source: str, part: str, **options: Any) -> Any:
    """Load one part of the checkpoint. Raises UserError where it is missing, broken, or lacks weights."""
    has_weights = issubclass(cls, torch.nn.Module)
    try:
        if not has_weights:
            return cls.from_pretrained(source, subfolder=part, **options)
        model, info = cls.from_pretrained(source, subfolder=part, output_loading_info=True, **options)
    except Exception as error:  # a damaged config or file leads the libraries to anything
        if options["local_files_only"] and not Path(source).is_dir():
            raise UserError(
                f"prior {source}: no such folder, the hub can't be reached, and its {part} is not in the local cache; "
                "set prior.path to a folder, or run once with a network"
            ) from None
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"prior {source}: {part} can't be loaded: {reason[0]}") from error
    if info["missing_keys"]:
        some = sorted(info["missing_keys"])
        raise UserError(f"prior {source}: {part} lacks {len(some)} of its weights, such as {some[0]}")
    return model


def _check(path: str, unet: Any, vae: Any, text_encoder: Any, tokenizer: Any) -> None:
    """Raise UserError for a checkpoint whose parts do not make a plain text-to-image model."""
    if unet.config.addition_embed_type is not None or unet.config.class_embed_type is not None:
        raise UserError(
            f"prior {path}: its UNet takes more than a prompt (is it XL?): use Stable Diffusion 1.x or 2.x"
        )
    if unet.config.in_channels != vae.config.latent_channels:
        raise UserError(
            f"prior {path}: its UNet takes {unet.config.in_channels} channels, its latents have "
            f"{vae.config.latent_channels} (a model for inpainting or for instructions?): use a text-to-image model"
        )
    if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
        raise UserError(
            f"prior {path}: its text encoder is {text_encoder.config.hidden_size} wide, its UNet expects "
            f"{unet.config.cross_attention_dim}: the parts are of different models"
        )
    if len(tokenizer) < 4 or len(tokenizer) > text_encoder.config.vocab_size:
        # Of a folder without a vocabulary transformers makes an empty tokenizer, and does not complain.
        raise UserError(
            f"prior {path}: its tokenizer has {len(tokenizer)} tokens, its text encoder "
            f"{text_encoder.config.vocab_size}: tokenizer/vocab.json or tokenizer.json is missing or of another model"
        )
