"""Transformers of CLIP's kind: how large they are here, and how they are saved."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, CLIPTextConfig, CLIPTokenizer, PreTrainedModel

from ids3d.tabletop.tokenizer import LENGTH

HEADS = 4


def text_tower(width: int, layers: int, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """The sizes of a transformer that reads captions."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=LENGTH,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        projection_dim=width,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )


def save_half(model: PreTrainedModel, folder: Path) -> None:
    """Save a transformers model in half precision, marked to be loaded in single precision."""
    model.half().save_pretrained(folder)
    model.float()
    config = AutoConfig.from_pretrained(folder)
    config.dtype = torch.float32
    config.save_pretrained(folder)
