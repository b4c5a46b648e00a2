"""Edit a UNet's attention maps and activations while it runs: the contexts behind `Prior.edit_*`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

Edit = Callable[[str, Tensor], Tensor]


@contextmanager
def edit_attention(
    unet: UNet2DConditionModel, edit: Edit, layer: Literal["attn1", "attn2"], batch: int
) -> Iterator[None]:
    """Within the context, replace the attention maps of the last `batch` rows by edit(name of the layer, maps).

    Maps are (batch, heads, queries, keys), after the softmax. The layers' own processors are back when the context
    ends, also by an exception.

    Args:
        layer: of which layers: "attn1", self-attention, or "attn2", cross-attention.
    """
    layers = {name: module for name, module in unet.named_modules() if name.endswith(f".{layer}")}
    before = {name: module.processor for name, module in layers.items()}
    try:
        for name, module in layers.items():
            module.set_processor(_EditedAttention(name, edit, batch))
        yield
    finally:
        for name, module in layers.items():
            module.set_processor(before[name])


class _EditedAttention:
    """An attention processor of diffusers' that computes the maps of the last `batch` rows and edits them.

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
def edit_activations(
    unet: UNet2DConditionModel, edit: Edit, features: bool, queries_and_keys: bool
) -> Iterator[None]:
    """Within the context, replace activations by edit(name of the layer, activation), where Plug-and-Play injects them.

    In Stable Diffusion (Tumanyan et al. 2022, section 4): `features` of the decoder's 4th residual block, what
    up_blocks.1.resnets.1 adds to its input, and `queries_and_keys` of all self-attention layers of the decoder but the
    first. In a smaller UNet: the last residual block of the second of the decoder's blocks, and the same layers.
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
    return lambda _module, _args, output: edit(name, output)
