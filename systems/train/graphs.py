"""A UNet's two passes in training, which a GPU can record once and repeat without waiting for Python."""

from __future__ import annotations

from typing import cast

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn


class Predictor:
    """What a UNet predicts, and its decoder's features before the last level.

    No module, so that what it holds of the UNet is in no checkpoint twice.

    Args:
        unet: what is trained.
        half: compute in bfloat16 where that is safe.
    """

    def __init__(self, unet: UNet2DConditionModel, half: bool) -> None:
        self._call = _WithFeatures(unet, half)

    def __call__(self, noisy: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity (b, c, h, w) of latents at timesteps t (b,) under text (b, n, d), and features (b, f, h, w)."""
        return cast("tuple[Tensor, Tensor]", self._call(noisy, t, text))

    def record(self, batch: int, channels: int, side: int, text: tuple[int, int]) -> None:
        """Record forward and backward pass as CUDA graphs, for calls of these shapes alone.

        The small UNets of the tabletop prior are some two thousand kernels a step, which take Python longer to start
        than a GPU to run: .049 s a step of 640 latents on an H200 instead of .190 (PyTorch's docs, "CUDA graphs").

        Args:
            batch, channels, side: of the latents.
            text: a caption's tokens and their width.
        """
        device = next(self._call.parameters()).device
        noisy = torch.zeros(batch, channels, side, side, device=device)
        t = torch.zeros(batch, dtype=torch.long, device=device)
        # Made in place: the module's own forward is replaced.
        torch.cuda.make_graphed_callables(
            self._call, (noisy, t, torch.zeros(batch, *text, device=device, requires_grad=True))
        )


class _WithFeatures(nn.Module):
    """A module, for its parameters are what a recorded backward pass must reach."""

    def __init__(self, unet: UNet2DConditionModel, half: bool) -> None:
        super().__init__()
        self.unet, self.in_half = unet, half
        unet.up_blocks[-2].register_forward_hook(self._keep_features)

    def forward(self, noisy: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        # Without autocast's cache, which would hand a recording tensors from outside of it.
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=self.in_half, cache_enabled=False):
            velocity = self.unet(noisy, t, text, return_dict=False)[0]
        return velocity.float(), self._features.float()

    def _keep_features(self, block: nn.Module, taken: object, features: Tensor) -> None:
        self._features = features
