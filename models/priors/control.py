"""Taking hold of what happens within a UNet, for one call: attention maps, and the activations that carry structure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

Edit = Callable[[str, Tensor], Tensor]


@contextmanager
def edit_attention(unet: UNet2DConditionModel, edit: Edit, kind: str, batch: int) -> Iterator[None]:
    """Within it, the attention layers of a kind ("attn1": self, "attn2": cross) ask `edit` for the last rows' maps.

    Maps are (batch, heads, queries, keys), softmaxed. Every other layer keeps the processor that it has.
    """
    layers = {name: layer for name, layer in unet.named_modules() if name.endswith(f".{kind}")}
    before = {name: layer.processor for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.set_processor(_Explicit(name, edit, batch))
        yield
    finally:
        for name, layer in layers.items():
            layer.set_processor(before[name])


class _Explicit:
    """An attention processor of diffusers' that computes the maps of the last `batch` rows, and lets them be edited.

    For the attention layers of UNet2DConditionModel's transformer blocks: they have no norm or residual of their own.
    """

    def __init__(self, name: str, edit: Edit, batch: int) -> None:
        self.name, self.edit, self.batch = name, edit, batch

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
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        plain = len(q) - self.batch
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        if plain > 0:
            out[:plain] = torch.nn.functional.scaled_dot_product_attention(
                q[:plain], k[:plain], v[:plain], scale=attn.scale
            )
        scores = attn.scale * q[plain:] @ k[plain:].transpose(-1, -2)
        maps = scores.float().softmax(dim=-1).to(v.dtype)
        out[plain:] = self.edit(self.name, maps).to(v.dtype) @ v[plain:]
        projected: Tensor = attn.to_out[0](out.transpose(1, 2).flatten(2))
        return projected / attn.rescale_output_factor


@contextmanager
def edit_structure(
    unet: UNet2DConditionModel, edit: Edit, features: bool, queries_and_keys: bool
) -> Iterator[None]:
    """Within it, the UNet goes on with edit(name, activation) at the places that Plug-and-Play takes structure from.

    In Stable Diffusion (Tumanyan et al. 2022, section 4): `features` of the decoder's 4th residual block, what
    up_blocks.1.resnets.1 adds to its input, and `queries_and_keys` of the decoder's self-attention layers but the very
    first. Elsewhere: the last residual block of the second of the decoder's blocks, and the same layers.
    """
    blocks = unet.up_blocks
    names: list[str] = []
    if features:
        resnets = len(blocks[1].resnets)
        names.append(f"up_blocks.1.resnets.{min(1, resnets - 1)}.conv2")
    if queries_and_keys:
        layers = [name for name, _ in unet.named_modules() if name.endswith(".attn1")]
        decoder = [name for name in layers if name.startswith("up_blocks.")][1:]
        names += [f"{name}.{part}" for name in decoder for part in ("to_q", "to_k")]
    with ExitStack() as hooks:
        for name in names:
            handle = unet.get_submodule(name).register_forward_hook(_replace(edit, name))
            hooks.callback(handle.remove)
        yield


def _replace(edit: Edit, name: str) -> Callable[[Any, Any, Tensor], Tensor]:
    return lambda module, given, output: edit(name, output)
