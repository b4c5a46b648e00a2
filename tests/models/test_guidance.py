"""What holds for the methods whatever their formulas: identities, batches, seeds, settings, and an analytic prior."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from torch import Tensor

from ids3d.config import parse
from ids3d.errors import UserError
from ids3d.models.guidance.cds import CDS
from ids3d.models.guidance.dds import DDS
from ids3d.models.guidance.distillation import Distillation, EditStep, GuidanceConfig
from ids3d.models.guidance.ids import IDS, fixed_point
from ids3d.models.guidance.pds import PDS
from ids3d.models.guidance.sampling import sample_timestep_and_noise
from ids3d.models.guidance.sds import SDS
from ids3d.models.priors.protocol import Prompt
from ids3d.models.priors.stable_diffusion import StableDiffusion
from ids3d.registry import find
from ids3d.schedule import DiffusionSchedule
from tests import tiny_sd

METHODS = ["sds", "dds", "cds", "pds", "ids"]


@functools.cache
def prior() -> StableDiffusion:
    return tiny_sd.prior("v_prediction")


def latents(seed: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(name: str, **settings):
    cls = find("guidance", name)
    return cls(cls.Config(**settings), prior())


SOURCES, TARGETS = ["a red cube", "a blue cone"], ["a blue cube", "a red cone on a wooden floor"]
Z_SRC, Z_TRG = latents(0), latents(1)


def test_ids_without_iterations_is_dds_to_the_bit():
    source, target = prior().embed(SOURCES), prior().embed(TARGETS)
    dds, ids = generator(), generator()
    for _ in range(2):  # and they go on drawing the same numbers
        expected = make("dds")(Z_SRC, Z_TRG, source, target, dds).grad
        assert torch.equal(make("ids", fpr_iterations=0)(Z_SRC, Z_TRG, source, target, ids).grad, expected)


def test_cds_without_cut_is_dds_to_the_bit():
    source, target = prior().embed(SOURCES), prior().embed(TARGETS)
    dds, cds = generator(), generator()
    for _ in range(2):
        expected = make("dds")(Z_SRC, Z_TRG, source, target, dds).grad
        assert torch.equal(make("cds", w_cut=0.0)(Z_SRC, Z_TRG, source, target, cds).grad, expected)


def test_dds_of_equal_latents_and_prompts_is_zero():
    prompt = prior().embed(SOURCES)
    assert make("dds")(Z_SRC, Z_SRC.clone(), prompt, prompt, generator()).grad.abs().max() == 0


@pytest.mark.parametrize("name", METHODS)
def test_with_a_generator_each_a_latent_does_not_see_its_batch(name):
    source, target = prior().embed(SOURCES), prior().embed(TARGETS)
    guidance = make(name, **({"w_cut": 1.0} if name == "ids" else {}))
    for _ in range(2):
        batch = guidance(Z_SRC, Z_TRG, source, target, [generator(5), generator(6)]).grad
        for i, seed in enumerate((5, 6)):
            one = slice(i, i + 1)
            alone = guidance(Z_SRC[one], Z_TRG[one], source[one], target[one], generator(seed)).grad
            # Single precision: a batch's products are summed in another order.
            torch.testing.assert_close(batch[one], alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="3 generators for 2 latents"):
        guidance(Z_SRC, Z_TRG, source, target, [generator()] * 3)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_gets_what_each_latent_gets_alone(name):
    """One generator serves two single calls with the numbers that it gives a batch of two."""
    source, target = prior().embed(SOURCES), prior().embed(TARGETS)
    guidance = make(name)
    batch = guidance(Z_SRC, Z_TRG, source, target, generator()).grad
    one_by_one = generator()
    for i in (slice(0, 1), slice(1, 2)):
        alone = guidance(Z_SRC[i], Z_TRG[i], source[i], target[i], one_by_one).grad
        assert (batch[i] - alone).norm() <= 2e-5 * alone.norm()


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits_and_another_does_not(name):
    source, target = prior().embed(SOURCES[:1]), prior().embed(TARGETS[:1])  # one prompt serves both latents
    guidance = make(name)
    first, again, other = (guidance(Z_SRC, Z_TRG, source, target, generator(seed)).grad for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_come_without_a_graph_and_inputs_stay_as_they_are(name):
    source, target = prior().embed(SOURCES), prior().embed(TARGETS)
    z_src, z_trg = Z_SRC.clone().requires_grad_(), Z_TRG.clone().requires_grad_()
    result = make(name)(z_src, z_trg, source, target, generator())
    assert result.grad.shape == z_trg.shape and not result.grad.requires_grad
    assert z_trg.grad is None and z_src.grad is None and torch.equal(z_trg, Z_TRG)
    assert all(isinstance(value, float) and math.isfinite(value) for value in result.figures.values())


def test_hooks_are_gone_after_a_call_that_failed(monkeypatch):
    source, target = prior().embed(SOURCES), prior().embed(TARGETS)
    expected = make("dds")(Z_SRC, Z_TRG, source, target, generator()).grad

    def fail(*_args, **_kwargs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        patch.setattr(prior().unet.conv_out, "forward", fail)
        make("cds")(Z_SRC, Z_TRG, source, target, generator())
    assert not any(module._forward_hooks for module in prior().unet.modules())
    make("cds")(Z_SRC, Z_TRG, source, target, generator())
    assert not any(module._forward_hooks for module in prior().unet.modules())
    assert torch.equal(make("dds")(Z_SRC, Z_TRG, source, target, generator()).grad, expected)


def test_cut_takes_latents_that_are_not_square():
    source, target = prior().embed(SOURCES[:1]), prior().embed(TARGETS[:1])
    z = torch.randn(1, 4, 6, 10, generator=generator())
    assert make("cds")(z, z + 0.1, source, target, generator()).grad.shape == z.shape


@pytest.mark.parametrize("name", ["cds", "ids"])
def test_gradients_through_the_unet_survive_half_precision(name):
    half = tiny_sd.prior("v_prediction", "float16")
    cls = find("guidance", name)
    settings = {"w_cut": 3.0, "t_range": (0.2, 0.8)}
    expected, got = (
        cls(cls.Config(**settings), p)(Z_SRC, Z_TRG, p.embed(SOURCES), p.embed(TARGETS), generator()).grad
        for p in (prior(), half)
    )
    assert got.dtype == torch.float32 and (got - expected).norm() < 0.05 * expected.norm()


# ---- drawing and the common settings


def test_timesteps_are_uniform_over_the_range_and_batches_draw_like_singles():
    low, high = GuidanceConfig(t_range=(0.2, 0.21)).timestep_limits(1000)
    t, eps = sample_timestep_and_noise(low, high, torch.zeros(4000, 1, 1, 1), generator())
    counts = torch.bincount(t, minlength=212)
    assert counts[200:211].sum() == 4000 and counts[200:211].min() > 300
    assert abs(eps.mean()) < 0.05 and abs(eps.std() - 1) < 0.05
    singles = generator()
    alone = [sample_timestep_and_noise(low, high, torch.zeros(1, 1, 1, 1), singles) for _ in range(3)]
    assert torch.equal(torch.cat([pair[0] for pair in alone]), t[:3])
    assert torch.equal(torch.cat([pair[1] for pair in alone]), eps[:3])


def test_the_range_moves_with_progress():
    cfg = GuidanceConfig(t_range=(0.05, 0.95), t_range_end=(0.05, 0.35))
    assert [cfg.timestep_limits(1000, p) for p in (0.0, 0.5, 1.0)] == [(50, 950), (50, 650), (50, 350)]
    assert GuidanceConfig(t_range=(0.0, 1.0)).timestep_limits(1000) == (0, 999)
    assert GuidanceConfig().timestep_limits(1000, progress=0.7) == (50, 950)


def test_pds_has_a_step_before_the_first():
    source, target = prior().embed(SOURCES), prior().embed(TARGETS)
    result = make("pds", t_range=(0.0, 0.0))(Z_SRC, Z_TRG, source, target, generator())
    assert result.figures["t"] == 2 and result.grad.isfinite().all()


def test_clipping_scales_only_the_latent_that_is_too_long():
    class Away(Distillation):
        def gradient(self, step: EditStep) -> Tensor:
            return step.z_trg

    grad = torch.stack([torch.full((4, 8, 8), 3.0), torch.full((4, 8, 8), 0.5)])
    prompt = prior().embed(SOURCES)
    away = Away(GuidanceConfig(max_rms=1.0), prior())
    clipped = away(Z_SRC, grad, prompt, prompt, generator()).grad
    torch.testing.assert_close(clipped[0], torch.ones(4, 8, 8))
    assert torch.equal(clipped[1], grad[1])


def test_bad_settings_are_errors_of_the_user():
    for name, settings, message in [
        ("ids", {"t_range": [0.9, 0.1]}, "low <= high"),
        ("ids", {"fpr_iteration": 3}, "fpr_iterations"),
        ("ids", {"fpr_step": "newton"}, "polyak"),
        ("ids", {"fpr_iterations": -1}, "fpr_iterations"),
        ("dds", {"max_rms": 0}, "max_rms"),
        ("cds", {"guidance_scale": 0}, "w_cut"),
        ("pds", {"steps": 0}, "steps"),
    ]:
        with pytest.raises(UserError, match=message):
            parse(find("guidance", name).Config, settings, where="guidance")
    with pytest.raises(UserError, match="did you mean"):
        find("guidance", "idss")


# ---- a prior that is known exactly: every prompt is a Gaussian


class GaussianPrior:
    """z ~ N(m(y), s²) for a prompt y; its noise prediction is exact: ε = σ (z_t − √ᾱ m) / (ᾱ s² + σ²).

    Prompts are the numbers m themselves. Also an example of how little a prior of somebody's own has to have.
    """

    image_size, latent_channels, downsample, device, s = 8, 4, 1, torch.device("cpu"), 0.5

    def __init__(self) -> None:
        self.schedule = DiffusionSchedule(torch.linspace(0.999, 0.005, 1000, dtype=torch.float64))

    def embed(self, texts) -> Prompt:
        cond = torch.tensor([float(text or "nan") for text in texts], dtype=torch.float64).view(-1, 1, 1)
        return Prompt(cond, torch.zeros_like(cond), torch.zeros(cond.shape[:2], dtype=torch.long))

    def predict_noise(self, z_t, t, prompt, guidance_scale):
        prompt = prompt.expand(len(z_t))
        a, sigma = self.schedule.alpha(t, z_t), self.schedule.sigma(t, z_t)
        null, cond = (
            sigma * (z_t - a * m[..., None]) / ((a * self.s) ** 2 + sigma**2)
            for m in (prompt.null, prompt.cond)
        )
        return null + guidance_scale * (cond - null)


Z = latents(0).double()


def analytic(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a = torch.linspace(0.999, 0.005, 1000, dtype=torch.float64)[t].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - a**2).sqrt()
    return a, sigma, sigma * a / ((a * 0.5) ** 2 + sigma**2)


def test_dds_on_a_gaussian_prior_moves_the_target_by_the_difference_of_the_means():
    gaussian = GaussianPrior()
    dds = DDS(DDS.Config(guidance_scale=1.0), gaussian)
    source, target = gaussian.embed(["1"]), gaussian.embed(["3"])
    t, _ = sample_timestep_and_noise(*dds.cfg.timestep_limits(1000), Z, generator())
    got = dds(Z, Z + 0.25, source, target, generator()).grad
    _, _, k = analytic(t)
    torch.testing.assert_close(got, k * (0.25 - 2.0) * torch.ones_like(Z))
    z, g = Z.clone(), generator()
    for _ in range(300):
        z -= 0.2 * dds(Z, z, source, target, g).grad
    torch.testing.assert_close(z, Z + 2.0, rtol=0, atol=1e-3)  # what 300 steps leave of the way


def test_sds_on_a_gaussian_prior_goes_to_the_mean_and_forgets_the_source():
    gaussian = GaussianPrior()
    sds, z, g = SDS(SDS.Config(guidance_scale=1.0), gaussian), Z.clone(), generator()
    for step in range(300):
        z -= (0.3 if step < 150 else 0.03) * sds(Z, z, gaussian.embed(["0"]), gaussian.embed(["3"]), g).grad
    assert (z - 3).square().mean().sqrt() < 0.25


def test_exact_posterior_makes_pds_a_weighted_dds():
    """The terms in z_trg − z_src cancel, as the docstring of `posterior` says; with the published β_t they don't."""
    gaussian, z_trg = GaussianPrior(), latents(1).double()
    source, target = gaussian.embed(["1"]), gaussian.embed(["3"])
    cfg = {"guidance_scale": 7.5, "t_range": (0.3, 0.3)}
    bars = torch.linspace(0.999, 0.005, 1000, dtype=torch.float64)
    a_t, a_prev = bars[300], bars[298]
    beta = 1 - a_t / a_prev
    std = ((1 - a_prev) / (1 - a_t) * beta).sqrt()
    factor = a_prev.sqrt() * beta / (a_t.sqrt() * (1 - a_t).sqrt() * std)
    dds = DDS(DDS.Config(**cfg), gaussian)(Z, z_trg, source, target, generator()).grad
    exact = PDS(PDS.Config(**cfg, posterior="exact"), gaussian)(Z, z_trg, source, target, generator()).grad
    # DDS doesn't depend on its noise here (the prior is linear), so another draw of it is no matter
    torch.testing.assert_close(exact, factor * dds)
    published = PDS(PDS.Config(**cfg), gaussian)(Z, z_trg, source, target, generator()).grad
    pull = published - published.mean() - 0.5 * (exact - exact.mean())
    assert ((pull * (z_trg - Z)).sum() / (z_trg - Z).square().sum()) > 0.01


@pytest.mark.parametrize(("step", "scale"), [("fixed", 1.0), ("polyak", 0.7), ("polyak", 1.0)])
def test_fpr_lowers_the_residual_on_a_gaussian_prior(step, scale):
    """The residual is the norm of a multiple of z_t there, so that a whole Polyak step takes it to zero at once."""
    gaussian = GaussianPrior()
    cfg = IDS.Config(guidance_scale=1.0, fpr_iterations=4, fpr_step=step, fpr_scale=scale)
    t, eps = sample_timestep_and_noise(*cfg.timestep_limits(1000), Z, generator())
    _, _, residuals = fixed_point(cfg, gaussian, Z, gaussian.embed(["1"]), t, eps)
    for before, after in itertools.pairwise(residuals):
        assert (after < before + 1e-9).all()
    if step == "polyak" and scale == 1.0:
        assert (residuals[1] < 1e-9).all()


def test_a_loop_of_ones_own():
    """What the README promises: no Lightning, no config, no file."""
    cds = CDS(CDS.Config(t_range=(0.2, 0.8)), prior())
    source, target = prior().embed(["a red cube"]), prior().embed(["a blue cube"])
    z_src = prior().encode(torch.full((1, 3, 16, 16), 0.5))
    z_trg = z_src.clone()
    rng = generator()
    for step in range(3):
        z_trg = z_trg - 0.0488 * cds(z_src, z_trg, source, target, rng, progress=step / 3).grad
    assert prior().decode(z_trg).shape == (1, 3, 16, 16) and not torch.equal(z_trg, z_src)
