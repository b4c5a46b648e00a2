"""Attention of the source in the target's prediction, both in one forward pass of the UNet.

Prompt-to-Prompt (Hertz et al. 2022, arXiv 2208.01626) injects attention maps between two passes of a sampler. Here a
source and a target that differ by what a guidance has changed so far are predicted at one timestep with one noise, and
the target takes the source's maps from the very pass that predicts the source's noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ids3d.models.priors.protocol import SharedAttention

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention


@contextmanager
def share_attention(unet: UNet2DConditionModel, shared: SharedAttention) -> Iterator[None]:
    """Within the context, the UNet's layers attend as `shared` says; their own processors are back when it ends."""
    layers = {
        name: module
        for name, module in unet.named_modules()
        if name.endswith(".attn1") or (name.endswith(".attn2") and shared.alignment is not None)
    }
    before = {name: module.processor for name, module in layers.items()}
    try:
        for name, module in layers.items():
            module.set_processor(_SharedAttentionProcessor(name, shared))
        yield
    finally:
        for name, module in layers.items():
            module.set_processor(before[name])


class _SharedAttentionProcessor:
    """An attention processor of diffusers' for one layer.

    For the attention layers of UNet2DConditionModel's transformer blocks: they have no norm or residual of their own.
    """

    def __init__(self, name: str, shared: SharedAttention) -> None:
        self.name, self.shared = name, shared
        self.source: tuple[Tensor, Tensor] | None = (
            None  # queries and keys of the source's call, if it has one
        )

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        if attention_mask is not None or attn.norm_cross is not None or attn.residual_connection:
            raise NotImplementedError(f"{self.name}: attention with a mask, a norm or a residual of its own")
        cross = encoder_hidden_states is not None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        if self.shared.together:
            pairs = [x.unflatten(0, (-1, 2, self.shared.batch)) for x in (q, k, v)]
            (q_src, k_src, v_src), (q, k, v) = ([x[:, i].flatten(0, 1) for x in pairs] for i in (0, 1))
            out_src = F.scaled_dot_product_attention(q_src, k_src, v_src, scale=attn.scale)
            out_trg = self._attend((q_src, k_src), q, k, v, attn.scale, cross)
            parts = [x.unflatten(0, (-1, self.shared.batch)) for x in (out_src, out_trg)]
            out = torch.stack(parts, dim=1).flatten(0, 2)
        elif self.source is None:
            self.source = q.detach(), k.detach()
            out = F.scaled_dot_product_attention(q, k, v, scale=attn.scale)
        else:
            out = self._attend(self.source, q, k, v, attn.scale, cross)
        projected: Tensor = attn.to_out[0](out.transpose(1, 2).flatten(2))
        return projected / attn.rescale_output_factor

    def _attend(
        self, source: tuple[Tensor, Tensor], q: Tensor, k: Tensor, v: Tensor, scale: float, cross: bool
    ) -> Tensor:
        """Return the target's values, attended to as the source does; everything (rows, heads, tokens, channels)."""
        q_src, k_src = source
        if not cross:
            if q.shape[2] <= self.shared.self_tokens:
                q, k = q_src, k_src
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        b, alignment = self.shared.batch, self.shared.alignment
        assert alignment is not None
        own, theirs = (
            _softmax(scale * queries[-b:] @ keys[-b:].transpose(-1, -2))
            for queries, keys in ((q, k), (q_src, k_src))
        )
        at = alignment[:, None, None].expand(*own.shape[:-1], -1)
        maps = torch.where(at >= 0, theirs.gather(-1, at.clamp(min=0)), own).to(v.dtype)
        null = slice(len(q) - b)  # the empty prompt is the same for both, and so are its tokens
        out = F.scaled_dot_product_attention(q_src[null], k_src[null], v[null], scale=scale)
        return torch.cat([out, maps @ v[-b:]])


def _softmax(scores: Tensor) -> Tensor:
    """Along the last axis, in single precision at least."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)
