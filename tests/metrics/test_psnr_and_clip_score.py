"""PSNR against scikit-image and by hand; the CLIP score against transformers' own forward pass."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from ids3d.errors import UserError
from ids3d.metrics import ClipScore, mean_of_finite, psnr
from ids3d.metrics.clip_score import centre_square


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(12, 9, 3, generator=generator)
    return (truth + 0.1 * torch.randn(12, 9, 3, generator=generator)).clamp(0, 1), truth


def test_psnr_is_scikit_images() -> None:
    image, truth = pair()
    assert psnr(image, truth) == pytest.approx(
        peak_signal_noise_ratio(truth.numpy(), image.numpy(), data_range=1.0), abs=1e-4
    )


def test_masked_psnr_by_hand() -> None:
    image, truth = pair(1)
    mask = torch.zeros(12, 9, dtype=torch.bool)
    mask[2:5, 3:7] = True
    inside = np.mean((image.numpy()[2:5, 3:7] - truth.numpy()[2:5, 3:7]) ** 2)
    assert psnr(image, truth, mask) == pytest.approx(-10 * math.log10(inside), abs=1e-4)
    error = ((image - truth) ** 2).mean(-1)
    outside = (error.sum() - error[2:5, 3:7].sum()) / (~mask).sum()
    assert psnr(image, truth, ~mask) == pytest.approx(-10 * math.log10(outside), abs=1e-4)


def test_psnr_at_its_edges() -> None:
    image, truth = pair(2)
    assert psnr(truth, truth) == math.inf
    assert math.isnan(psnr(image, truth, torch.zeros(12, 9, dtype=torch.bool)))
    assert mean_of_finite([1.0, math.nan, 3.0, math.inf]) == 2.0
    assert math.isnan(mean_of_finite([math.nan]))
    with pytest.raises(ValueError, match="one shape"):
        psnr(image, truth[:5])
    with pytest.raises(ValueError, match="does not fit"):
        psnr(image, truth, torch.ones(3, 3, dtype=torch.bool))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIPModel with a tokenizer of letters, as transformers saves them."""
    import json

    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **text,
            "vocab_size": 54,
            "max_position_embeddings": 24,
            "bos_token_id": 52,
            "eos_token_id": 53,
        },
        vision_config={**text, "image_size": 8, "patch_size": 4},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_clip_score_is_the_models_own_cosine(clip_folder: Path) -> None:
    from transformers import AutoTokenizer, CLIPModel
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    score = ClipScore(clip_folder)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    texts = ["a red cube", "fog"]
    got = score(images, texts)

    model, tokenizer = CLIPModel.from_pretrained(clip_folder), AutoTokenizer.from_pretrained(clip_folder)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    for i in range(2):  # one by one: neither the batch nor the padding may matter
        with torch.no_grad():
            tokens = tokenizer(texts[i], return_tensors="pt")
            out = model(pixel_values=(images[i : i + 1] - mean) / std, **tokens)
        cosine = out.logits_per_image[0, 0].item() / model.logit_scale.exp().item()
        assert float(got[i]) == pytest.approx(cosine, abs=1e-6)


def test_clip_sees_the_middle_square() -> None:
    image = torch.zeros(1, 3, 10, 30)
    image[..., 10:20] = 1
    assert torch.equal(centre_square(image, 10), torch.ones(1, 3, 10, 10))
    assert centre_square(torch.rand(1, 3, 37, 21), 8).shape == (1, 3, 8, 8)


def test_no_clip_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no CLIP model at"):
        ClipScore(tmp_path / "nothing")
