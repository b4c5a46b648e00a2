"""The contrastive loss that keeps the target's layout near the source's: CDS, Nam et al. 2024, arXiv 2311.18608."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ids3d.config.bounds import WEIGHT, check_bounds
from ids3d.models.guidance.distillation import Distillation, EditStep, GuidanceConfig
from ids3d.models.guidance.protocol import Generators
from ids3d.models.guidance.sampling import one_for_each

TEMPERATURE = 0.07
PATCH_SIZES = (1, 2)
# The loss is multiplied by this on its way through the UNet, or half precision would lose some of it. A power of two.
LOSS_SCALE = 2.0**10
# The published loss is PUBLISHED_FACTOR / (h·w) ⟨z_trg, DDS's gradient⟩ + w_cut ℓ_CUT, with the latent's h and w.
PUBLISHED_FACTOR = 2000


@dataclass
class CutConfig(GuidanceConfig):
    """The settings of a method that can add the CUT loss to its gradient."""

    w_cut: float = 0.0  # the weight of the loss, as in the published one, where it is 3; 0 leaves it out
    cut_patches: int = 256  # patches drawn per layer and patch size; all of them where there are no more

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.w_cut and self.guidance_scale == 0:
            raise ValueError("w_cut compares what the prompts do, so it needs a guidance_scale other than 0")
        check_bounds(self, w_cut=WEIGHT, cut_patches="[1, 1e6]")


class ContrastiveDistillation(Distillation):
    """A method that can add the gradient of the CUT loss to its own."""

    cfg: CutConfig

    def predict_pair_and_cut(
        self, step: EditStep, z_t_src: Tensor, z_t_trg: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return both noise predictions, as `predict_pair` gives them, and ∇_{z_trg} ℓ_CUT, (b, c, h, w) each.

        The loss is between the outputs of the self-attention layers in the decoder half of the UNet, for z_t^src and
        z_t^trg, each with its prompt. Its gradient goes through the UNet, to z_trg; the source is constant. With
        w_cut = 0 nothing of this is computed, nothing drawn, and the gradient is 0.

        The published loss multiplies DDS's part, and not this one, by 2000 / (h·w). Here DDS's part has no factor, so
        the gradient is multiplied by the inverse, h·w / 2000: w_cut = 3 is then what it is in the official code, 3
        times 2.048 on its 64x64 latents, and weighs alike on smaller ones, whose loss is a mean over fewer places.
        """
        cfg, (b, _, height, width) = self.cfg, z_t_trg.shape
        if cfg.w_cut == 0:
            return *self.predict_pair(step, z_t_src, z_t_trg), torch.zeros_like(z_t_trg)
        z_t_trg = z_t_trg.detach().requires_grad_()
        with torch.enable_grad(), self.shared_attention(step, together=False):
            with self.prior.self_attention_outputs() as outputs:
                eps_src, eps_trg = self.predict_pair(step, z_t_src, z_t_trg)
            features = [output[-b:] for output in outputs]  # the last b of a call's rows have the prompt
            layers = len(features) // 2  # of the source's call, then of the target's
            loss = cut_loss(
                features[:layers], features[layers:], (height, width), cfg.cut_patches, step.generator
            )
            (grad,) = torch.autograd.grad(loss.sum() * LOSS_SCALE, z_t_trg)
        grad = self.schedule.alpha(step.t, grad) * grad  # z_t^trg = √ᾱ_t z_trg + √(1−ᾱ_t) ε
        return eps_src, eps_trg.detach(), grad * (height * width / PUBLISHED_FACTOR / LOSS_SCALE)


def cut_loss(
    source: Sequence[Tensor],
    target: Sequence[Tensor],
    size: tuple[int, int],
    patches: int,
    generator: Generators,
) -> Tensor:
    """Return the PatchNCE loss of each of b images, (b,), summed over layers and patch sizes.

    Args:
        source, target: the features of each layer, (b, tokens, channels), the tokens being the rows of a map that is
            the latent halved some number of times. Differentiable in `target` only.
        size: the latent's height and width.
        patches: how many patches are drawn from each map, if it has more.
    """
    loss = target[0].new_zeros(len(target[0]), dtype=torch.promote_types(target[0].dtype, torch.float32))
    for src, trg in zip(source, target, strict=True):
        height, width = _map_size(src.shape[1], size)
        for patch_size in PATCH_SIZES:
            if min(height, width) >= patch_size:
                src_patches = _patches(src.detach(), height, width, patch_size)
                trg_patches = _patches(trg, height, width, patch_size)
                loss = loss + _patch_nce(src_patches, trg_patches, patches, generator)
    return loss


def _map_size(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a map of so many tokens. Raises ValueError where the latent halves to none such."""
    height, width = size
    while height * width > tokens:
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != tokens:
        raise ValueError(f"{tokens} tokens are no map of a latent of {size[0]}x{size[1]}")
    return height, width


def _patches(features: Tensor, height: int, width: int, patch_size: int) -> Tensor:
    """Average (b, tokens, channels) over squares of `patch_size`: (b, patches, channels), of unit length."""
    maps = (
        features.to(torch.promote_types(features.dtype, torch.float32))
        .transpose(1, 2)
        .unflatten(2, (height, width))
    )
    return F.normalize(F.avg_pool2d(maps, patch_size).flatten(2).transpose(1, 2), dim=2)


def _patch_nce(source: Tensor, target: Tensor, patches: int, generator: Generators) -> Tensor:
    """Return the cross entropy (b,) of telling each source patch's target patch, at the same place, from the others."""
    b, n, channels = source.shape
    if n > patches:
        # drawn for each image, so that none depends on the others
        ids = torch.stack(
            [torch.randperm(n, generator=g, device=g.device)[:patches] for g in one_for_each(generator, b)]
        )
        ids = ids.to(source.device)[..., None].expand(-1, -1, channels)
        source, target, n = source.gather(1, ids), target.gather(1, ids), patches
    logits = source @ target.transpose(1, 2) / TEMPERATURE
    same_place = torch.arange(n, device=logits.device).repeat(b)
    return F.cross_entropy(logits.flatten(0, 1), same_place, reduction="none").view(b, n).mean(1)
