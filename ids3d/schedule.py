"""The forward process of a diffusion model, and the conversions between what a network may predict.

Notation (Ho et al. 2020, arXiv 2006.11239): ᾱ_t is the cumulative product of the schedule, z_t = √ᾱ_t z + √(1−ᾱ_t) ε.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample"]


class DiffusionSchedule:
    """A discrete noise schedule, and what the network of that schedule predicts.

    Every method takes timesteps `t` (b,) int64 in [0, T) on any device, and tensors (b, ...) of one floating type. The
    arithmetic is done in that type, or in float32 where it is half. All is differentiable in the tensors, not in `t`.

    Args:
        alphas_cumprod: ᾱ, (T,), decreasing, within [0, 1]; ᾱ_t = 0 (zero terminal SNR) has no posterior mean.
        prediction_type: what the network predicts: the noise ("epsilon"), the velocity √ᾱ_t ε − √(1−ᾱ_t) z
            ("v_prediction"; Salimans & Ho 2022, arXiv 2202.00512) or z itself ("sample").

    Example:
        >>> schedule = DiffusionSchedule(torch.linspace(0.99, 0.01, 1000), "epsilon")
        >>> z, eps, t = torch.ones(2, 4, 8, 8), torch.zeros(2, 4, 8, 8), torch.tensor([10, 500])
        >>> torch.allclose(schedule.posterior_mean(schedule.add_noise(z, eps, t), eps, t), z)
        True
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: PredictionType = "epsilon") -> None:
        if prediction_type not in get_args(PredictionType):
            raise ValueError(
                f"prediction_type {prediction_type!r}: expected one of {', '.join(get_args(PredictionType))}"
            )
        if alphas_cumprod.ndim != 1 or not bool(((alphas_cumprod >= 0) & (alphas_cumprod <= 1)).all()):
            raise ValueError("alphas_cumprod: expected one row of numbers in [0, 1]")
        # The square roots are taken once, in double precision and on the CPU; each device and type gets its own copy.
        exact = alphas_cumprod.detach().cpu().double()
        self._tables = {"alpha_bar": exact, "alpha": exact.sqrt(), "sigma": (1 - exact).sqrt()}
        self._copies: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        self.prediction_type: PredictionType = prediction_type

    @property
    def num_timesteps(self) -> int:
        """T, the number of steps that the network was trained with."""
        return len(self._tables["alpha_bar"])

    def alpha_bar(self, t: Tensor, like: Tensor) -> Tensor:
        """Return ᾱ_t on the device and in the type of `like` (at least float32), shaped (b, 1, ...) to multiply it."""
        return self._look_up("alpha_bar", t, like)

    def alpha(self, t: Tensor, like: Tensor) -> Tensor:
        """Return √ᾱ_t, the share of the clean latent in z_t; shaped as `alpha_bar`."""
        return self._look_up("alpha", t, like)

    def sigma(self, t: Tensor, like: Tensor) -> Tensor:
        """Return √(1−ᾱ_t), the share of the noise in z_t; shaped as `alpha_bar`."""
        return self._look_up("sigma", t, like)

    def add_noise(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return z_t = √ᾱ_t z + √(1−ᾱ_t) ε, (b, ...)."""
        return self.alpha(t, z) * z + self.sigma(t, z) * eps

    def posterior_mean(self, z_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return z_{0|t} = (z_t − √(1−ᾱ_t) ε) / √ᾱ_t, the mean of z given z_t for predicted noise `eps` (Tweedie)."""
        return (z_t - self.sigma(t, z_t) * eps) / self.alpha(t, z_t)

    def to_noise(self, model_output: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """Return the noise that the network's output (b, ...) stands for, whatever the network predicts."""
        if self.prediction_type == "epsilon":
            return model_output
        if self.prediction_type == "v_prediction":
            return self.alpha(t, z_t) * model_output + self.sigma(t, z_t) * z_t
        return (z_t - self.alpha(t, z_t) * model_output) / self.sigma(t, z_t)

    def _look_up(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        dtype = torch.promote_types(like.dtype, torch.float32)
        key = (name, like.device, dtype)
        if key not in self._copies:
            self._copies[key] = self._tables[name].to(dtype).to(like.device)
        return self._copies[key][t.to(like.device)].reshape(-1, *[1] * (like.ndim - 1))
