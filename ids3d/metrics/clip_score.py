"""CLIP score: the cosine between the embeddings of an image and of a caption (arXiv 2104.08718, not rescaled)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ids3d.errors import UserError


class ClipScore(nn.Module):
    """A frozen CLIP that scores images against captions.

    torchmetrics' CLIPScore rounds images to bytes and multiplies by 100; published editing figures (0.16 and the
    like) are plain cosines.

    Args:
        path: a folder in transformers' layout that holds a CLIPModel and its tokenizer, or a hub name.

    Raises:
        UserError: nothing can be loaded from `path`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        from transformers import AutoTokenizer, CLIPModel  # seconds to import: only who scores pays

        try:
            # Single precision whatever the files hold: transformers takes theirs otherwise.
            self.model = (
                CLIPModel.from_pretrained(str(path), dtype=torch.float32).eval().requires_grad_(False)
            )
            self.tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
            mean, std = _normalisation(path)
        except Exception as error:  # a damaged folder leads transformers to anything
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise UserError(
                f"no CLIP model at {path}: {reason} (evaluate.clip: a folder in transformers' layout, or a hub name)"
            ) from error
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Score image i against caption i.

        Args:
            images: (b, 3, h, w) in [0, 1]; as CLIP's own preprocessing does, the short side is resized
                (bicubic, anti-aliased) to CLIP's input size and the middle square taken.
            captions: b texts.

        Returns:
            (b,) cosines in [-1, 1].
        """
        if len(captions) != len(images):
            raise ValueError(f"{len(images)} images and {len(captions)} captions")
        return F.cosine_similarity(self.embed_pictures(images), self.embed_captions(captions), dim=-1)

    @torch.no_grad()
    def embed_pictures(self, images: Tensor) -> Tensor:
        """Return the unit embeddings (b, d) of images (b, 3, h, w) in [0, 1], preprocessed as `forward` says."""
        size = self.model.config.vision_config.image_size
        pixels = (centre_square(images.to(self.mean), size).clamp(0, 1) - self.mean) / self.std
        seen = self.model.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.model.visual_projection(seen), dim=-1)

    @torch.no_grad()
    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """Return the unit embeddings (b, d) of b texts; what is longer than CLIP reads is cut off."""
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(captions), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.mean.device)
        read = self.model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return F.normalize(self.model.text_projection(read.pooler_output), dim=-1)


def centre_square(images: Tensor, size: int) -> Tensor:
    """Resize images (b, 3, h, w) so that the short side is `size`, and return their middle size x size squares."""
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    height, width = max(size, round(height * scale)), max(size, round(width * scale))
    if images.shape[-2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bicubic", antialias=True)
    top, left = (height - size) // 2, (width - size) // 2
    return images[..., top : top + size, left : left + size]


def _normalisation(path: str | Path) -> tuple[Tensor, Tensor]:
    """Return (mean, std) per channel, (3,) each, from the checkpoint's preprocessor_config.json, or OpenAI's.

    Raises ValueError: they are no three numbers, or a standard deviation is not above 0.
    """
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(str(path))
    except OSError:
        settings = {}
    given = settings.get("image_mean", OPENAI_CLIP_MEAN), settings.get("image_std", OPENAI_CLIP_STD)
    try:
        mean, std = (torch.tensor(values, dtype=torch.float32) for values in given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"image_mean or image_std is {given}, no three numbers: {error}") from None
    if mean.shape != (3,) or std.shape != (3,) or not (mean.isfinite() & std.isfinite() & (std > 0)).all():
        raise ValueError(
            f"image_mean and image_std are {given}: expected three numbers each, the latter above 0"
        )
    return mean, std
