"""The prior that a study uses, by the settings that choose it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch

from ids3d.device import pick_device
from ids3d.experiment import ImageJob, load
from ids3d.models.priors.protocol import Prior


def build_prior(overrides: Sequence[str], device: Literal["auto", "cpu", "cuda"]) -> Prior:
    """The prior that the overrides name. Raises UserError."""
    prior: Prior = picture_job(overrides).prior.build()
    return prior.to(pick_device(device))


def picture_job(overrides: Sequence[str]) -> ImageJob:
    job = load([], ["name=bench", "data=files", *overrides])
    assert isinstance(job, ImageJob)
    job.check()
    return job


def weights_digest(prior: Prior) -> str:
    """Tells one set of weights from another: a digest of what the prior predicts, to three digits."""
    z = torch.randn(1, prior.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        t = torch.tensor([prior.schedule.num_timesteps // 2], device=prior.device)
        eps = prior.predict_noise(z.to(prior.device), t, prior.embed([""]), 1.0).float().cpu()
    return hashlib.sha256(str([f"{x:.2e}" for x in eps.mean(dim=(0, 2, 3)).tolist()]).encode()).hexdigest()[
        :16
    ]
