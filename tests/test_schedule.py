"""The schedule, held against diffusers' own and against the definitions."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from ids3d.schedule import DiffusionSchedule

Z = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
EPS = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1))
T = torch.tensor([3, 500, 998])


def both(prediction_type: str) -> tuple[DiffusionSchedule, DDPMScheduler]:
    theirs = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction_type, clip_sample=False)
    return DiffusionSchedule(theirs.alphas_cumprod, prediction_type), theirs


def test_add_noise_is_that_of_diffusers():
    ours, theirs = both("epsilon")
    torch.testing.assert_close(ours.add_noise(Z, EPS, T), theirs.add_noise(Z, EPS, T), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_conversion_and_posterior_mean_are_those_of_diffusers(prediction_type):
    """diffusers' `step` says which clean latent an output means; ours must mean the same one."""
    ours, theirs = both(prediction_type)
    z_t, output = Z, EPS
    expected = torch.cat(
        [theirs.step(output[i : i + 1], int(T[i]), z_t[i : i + 1]).pred_original_sample for i in range(3)]
    )
    got = ours.posterior_mean(z_t.double(), ours.to_noise(output.double(), z_t.double(), T), T)
    torch.testing.assert_close(got, expected.double(), rtol=2e-5, atol=1e-5)


def test_velocity_is_that_of_diffusers():
    ours, theirs = both("v_prediction")
    z_t, v = theirs.add_noise(Z, EPS, T), theirs.get_velocity(Z, EPS, T)
    torch.testing.assert_close(ours.to_noise(v, z_t, T), EPS, rtol=1e-4, atol=1e-5)


def test_arithmetic_is_never_half_and_follows_double():
    ours, _ = both("epsilon")
    assert ours.add_noise(Z.half(), EPS.half(), T).dtype == torch.float32
    assert ours.add_noise(Z.double(), EPS.double(), T).dtype == torch.float64
    bar = ours.alpha_bar(T, Z.double())
    assert bar.shape == (3, 1, 1, 1)
    torch.testing.assert_close(
        ours.alpha(T, Z.double()) ** 2 + ours.sigma(T, Z.double()) ** 2, torch.ones_like(bar)
    )


def test_refuses_what_is_no_schedule():
    with pytest.raises(ValueError, match="prediction_type 'flow'"):
        DiffusionSchedule(torch.linspace(1, 0, 10), "flow")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alphas_cumprod"):
        DiffusionSchedule(torch.tensor([1.5, 0.5]))
