"""Each method's gradient against the formulas of its paper, for a batch of two, on priors that predict ε and v."""

from __future__ import annotations

import functools
import json
import math
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ids3d.models.guidance.cds import CDS
from ids3d.models.guidance.dds import DDS
from ids3d.models.guidance.ids import IDS, fixed_point
from ids3d.models.guidance.pds import PDS
from ids3d.models.guidance.sds import SDS
from ids3d.models.priors.stable_diffusion import StableDiffusion
from ids3d.systems.edit_images.latents import optimise
from ids3d.tabletop.evaluate import PRIOR
from tests import tiny_sd
from tests.models.reference import Draws, Reference, cut, draws

SOURCES = ["a red cube on a wooden floor", "a blue cone"]
TARGETS = ["a blue cube on a wooden floor", "a red cone and a cube"]
SEED = 7

# A tiny UNet with random weights, and the bundled prior: as it is, and its output taken for ε.
all_kinds = pytest.mark.parametrize(
    "kind", ["epsilon", "v_prediction", "tabletop epsilon", "tabletop v_prediction"]
)


COPIES = tempfile.TemporaryDirectory()  # of the bundled prior; removed when the tests end


@functools.cache
def folder(kind: str) -> Path:
    if not kind.startswith("tabletop"):
        return tiny_sd.folder(kind)  # type: ignore[arg-type]
    copy = Path(COPIES.name) / kind
    shutil.copytree(PRIOR, copy)
    file = copy / "scheduler" / "scheduler_config.json"
    settings = json.loads(file.read_text()) | {"prediction_type": kind.split()[-1]}
    file.write_text(json.dumps(settings))
    return copy


@functools.cache
def prior(kind: str) -> StableDiffusion:
    return StableDiffusion(StableDiffusion.Config(path=str(folder(kind)), dtype="float64"))


@functools.cache
def reference(kind: str) -> Reference:
    return Reference(folder(kind), kind.split()[-1])


def latents(ref: Reference, seed: int) -> Tensor:
    return torch.randn(
        2, ref.channels, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def sources(ref: Reference) -> Tensor:
    return latents(ref, 0)


def targets(ref: Reference) -> Tensor:
    return latents(ref, 0) + 0.3 * latents(ref, 1)


def assert_same(got: Tensor, expected: Tensor, rel: float = 1e-6) -> None:
    """Of two gradients of one latent, in double precision: their difference is no longer than `rel` of the expected.

    FPR and ω = 100 make some thousand times as much of a rounding error.
    """
    assert (got - expected).norm() <= rel * expected.norm()


def replay(ref: Reference, low: int = 50, high: int = 950, noises: int = 1) -> list[Draws]:
    return draws(torch.Generator().manual_seed(SEED), 2, low, high, noises, ref.channels)


def call(guidance, kind: str, seed: int = SEED, **kwargs):
    ref, source, target = reference(kind), prior(kind).embed(SOURCES), prior(kind).embed(TARGETS)
    return guidance(sources(ref), targets(ref), source, target, torch.Generator().manual_seed(seed), **kwargs)


@all_kinds
@pytest.mark.parametrize("weighting", ["one", "sigma2"])
def test_sds(kind, weighting):
    ref = reference(kind)
    got = call(SDS(SDS.Config(guidance_scale=7.5, weighting=weighting), prior(kind)), kind).grad
    for i, d in enumerate(replay(ref)):
        eps = d.noises[0]
        expected = ref.noise(ref.noised(targets(ref)[i : i + 1], eps, d.t), TARGETS[i], d.t, 7.5) - eps
        weight = 1 - ref.bars[d.t] if weighting == "sigma2" else 1.0
        assert_same(got[i : i + 1], weight * expected)


@all_kinds
@pytest.mark.parametrize("w", [7.5, 1.0, 0.0])
def test_dds(kind, w):
    ref = reference(kind)
    got = call(DDS(DDS.Config(guidance_scale=w), prior(kind)), kind).grad
    for i, d in enumerate(replay(ref)):
        eps = d.noises[0]
        trg = ref.noise(ref.noised(targets(ref)[i : i + 1], eps, d.t), TARGETS[i], d.t, w)
        src = ref.noise(ref.noised(sources(ref)[i : i + 1], eps, d.t), SOURCES[i], d.t, w)
        assert_same(got[i : i + 1], trg - src)


def ids_reference(
    ref: Reference, i: int, d: Draws, n: int, scale: float, polyak: bool
) -> tuple[Tensor, list[float]]:
    """Algorithm 1 for one latent, and the residuals after 0, 1, ... N iterations."""
    z_src, z_trg, a, s = (
        sources(ref)[i : i + 1],
        targets(ref)[i : i + 1],
        math.sqrt(ref.bars[d.t]),
        math.sqrt(1 - ref.bars[d.t]),
    )
    z_t, residuals = ref.noised(z_src, d.noises[0], d.t), []
    for _ in range(n):
        z_t = z_t.clone().requires_grad_()
        residual = ref.residual(z_src, z_t, SOURCES[i], d.t, 7.5)
        residual.backward()
        step = scale * residual.item() / (z_t.grad**2).sum() if polyak else scale
        z_t = (z_t - step * z_t.grad).detach()
        residuals.append(residual.item())
    residuals.append(ref.residual(z_src, z_t, SOURCES[i], d.t, 7.5).item())
    eps_star = (z_t - a * z_src) / s
    trg = ref.noise(ref.noised(z_trg, eps_star, d.t), TARGETS[i], d.t, 7.5)
    return (trg - ref.noise(z_t, SOURCES[i], d.t, 7.5)).detach(), residuals


@all_kinds
@pytest.mark.parametrize(("step", "scale", "n"), [("fixed", 1.0, 3), ("fixed", 0.3, 1), ("polyak", 0.7, 2)])
def test_ids(kind, step, scale, n):
    cfg = IDS.Config(fpr_iterations=n, fpr_scale=scale, fpr_step=step)
    ref, got = reference(kind), call(IDS(cfg, prior(kind)), kind)
    all_residuals = []
    for i, d in enumerate(replay(ref)):
        expected, residuals = ids_reference(ref, i, d, n, scale, step == "polyak")
        assert_same(got.grad[i : i + 1], expected)
        all_residuals.append(residuals)
    for j in range(n + 1):
        assert got.figures[f"residual_{j}"] == pytest.approx(
            (all_residuals[0][j] + all_residuals[1][j]) / 2, rel=1e-6
        )


@all_kinds
@pytest.mark.parametrize("posterior", ["published", "exact"])
def test_pds(kind, posterior):
    """ζ as the published code has it (β_t of one step of 1000), and with the exact posterior of the step of two."""
    ref = reference(kind)
    got = call(PDS(PDS.Config(posterior=posterior), prior(kind)), kind).grad
    for i, d in enumerate(replay(ref, 20, 980, noises=2)):
        t, prev, bars = d.t, d.t - 2, ref.bars
        alpha = bars[t] / bars[t - 1] if posterior == "published" else bars[t] / bars[prev]
        zeta = {}
        for name, z, prompt in (
            ("src", sources(ref)[i : i + 1], SOURCES[i]),
            ("trg", targets(ref)[i : i + 1], TARGETS[i]),
        ):
            z_t, z_prev = ref.noised(z, d.noises[0], t), ref.noised(z, d.noises[1], prev)
            z_0 = (z_t - math.sqrt(1 - bars[t]) * ref.noise(z_t, prompt, t, 100.0)) / math.sqrt(bars[t])
            mean = (
                math.sqrt(bars[prev]) * (1 - alpha) / (1 - bars[t]) * z_0
                + math.sqrt(alpha) * (1 - bars[prev]) / (1 - bars[t]) * z_t
            )
            zeta[name] = (z_prev - mean) / math.sqrt((1 - bars[prev]) / (1 - bars[t]) * (1 - alpha))
        assert_same(got[i : i + 1], zeta["trg"] - zeta["src"], rel=1e-5)  # β_t is a small difference


def cut_gradient(ref: Reference, i: int, d: Draws, eps: Tensor, z_t_src: Tensor, ids: dict) -> Tensor:
    ref.noise(z_t_src, SOURCES[i], d.t, 7.5)
    source = [features.detach() for features in ref.features()]
    z = targets(ref)[i : i + 1].clone().requires_grad_()
    ref.noise(ref.noised(z, eps, d.t), TARGETS[i], d.t, 7.5)
    cut(source, ref.features(), ids).backward()
    return z.grad * (z.shape[2] * z.shape[3]) / 2000


@all_kinds
@pytest.mark.parametrize("patches", [256, 10])
def test_cds(kind, patches):
    ref = reference(kind)
    got = call(CDS(CDS.Config(w_cut=3.0, cut_patches=patches), prior(kind)), kind).grad
    generator = torch.Generator().manual_seed(SEED)
    drawn = draws(generator, 2, 50, 950, channels=ref.channels)
    ids: list[dict] = [{}, {}]
    ref.noise(sources(ref)[:1], SOURCES[0], 500, 1.0)
    for layer, features in enumerate(ref.features()):
        for size in (1, 2):
            n = len(features) // size**2
            for i in range(2):  # drawn for each image where there are more than asked for
                chosen = torch.randperm(n, generator=generator)[:patches] if n > patches else torch.arange(n)
                ids[i][layer, size] = chosen.tolist()
    for i, d in enumerate(drawn):
        eps = d.noises[0]
        z_t_src, z_t_trg = (
            ref.noised(sources(ref)[i : i + 1], eps, d.t),
            ref.noised(targets(ref)[i : i + 1], eps, d.t),
        )
        dds = ref.noise(z_t_trg, TARGETS[i], d.t, 7.5) - ref.noise(z_t_src, SOURCES[i], d.t, 7.5)
        expected = dds + 3.0 * cut_gradient(ref, i, d, eps, z_t_src, ids[i])
        assert_same(got[i : i + 1], expected)


@pytest.mark.parametrize("method", ["dds", "cds", "ids", "ids with cut"])
def test_ten_steps_are_those_of_the_published_loop(method):
    """SGD on 2000 / (h·w) ⟨z, grad⟩ + w_cut ℓ_CUT, as the official 2D code has it, written out for one latent.

    Its rate, 0.1 on 64x64, is brought to the latent's size so that the step stays 0.0488 per element.
    """
    kind, rate, hw = "epsilon", 0.1 * 64 / 64**2, 64
    ref, generator = reference(kind), torch.Generator().manual_seed(SEED)
    w_cut = 3.0 if method in ("cds", "ids with cut") else 0.0
    n = 3 if "ids" in method else 0
    ref.noise(sources(ref)[:1], SOURCES[0], 500, 1.0)
    counts = {(layer, size): len(f) // size**2 for layer, f in enumerate(ref.features()) for size in (1, 2)}
    everything = {key: list(range(count)) for key, count in counts.items()}
    z_src, z = sources(ref)[:1], sources(ref)[:1].clone()
    for _ in range(10):
        (d,) = draws(generator, 1, 50, 950, channels=ref.channels)
        z_t = ref.noised(z_src, d.noises[0], d.t)
        for _ in range(n):
            z_t.requires_grad_()
            ref.residual(z_src, z_t, SOURCES[0], d.t, 7.5).backward()
            z_t = (z_t - z_t.grad).detach()
        a, s = math.sqrt(ref.bars[d.t]), math.sqrt(1 - ref.bars[d.t])
        eps = (z_t - a * z_src) / s
        with torch.no_grad():
            src = ref.noise(z_t, SOURCES[0], d.t, 7.5)
        features = [f.detach() for f in ref.features()]
        z.requires_grad_()
        trg = ref.noise(ref.noised(z, eps, d.t), TARGETS[0], d.t, 7.5)
        loss = 2000 / hw * (z * (trg - src).detach()).sum()
        if w_cut:
            loss = loss + w_cut * cut(features, ref.features(), everything)
        (grad,) = torch.autograd.grad(loss, z)
        z = (z - rate * grad).detach()

    cls, settings = {
        "dds": (DDS, {}),
        "cds": (CDS, {}),  # the default weight is the published one
        "ids": (IDS, {}),
        "ids with cut": (IDS, {"w_cut": 3.0}),
    }[method]
    p = prior(kind)
    generators = [torch.Generator().manual_seed(SEED)]
    prompts = p.embed(SOURCES[:1]), p.embed(TARGETS[:1])
    got = optimise(
        cls(cls.Config(**settings), p), z_src, *prompts, generators, steps=10, lr=0.1 * 2000 / 64**2
    ).latents
    assert_same(got - z_src, z - z_src, rel=1e-5)
    assert (z - z_src).norm() > 0.1


@all_kinds
def test_ids_with_cut(kind):
    """The CUT loss is taken at the corrected noise, and its gradient is added to that of IDS."""
    ref = reference(kind)
    with_cut = call(IDS(IDS.Config(fpr_iterations=1, w_cut=3.0), prior(kind)), kind).grad
    without = call(IDS(IDS.Config(fpr_iterations=1), prior(kind)), kind).grad
    ref.noise(sources(ref)[:1], SOURCES[0], 500, 1.0)
    tokens = {(layer, size): len(f) // size**2 for layer, f in enumerate(ref.features()) for size in (1, 2)}
    everything = {key: list(range(n)) for key, n in tokens.items()}
    for i, d in enumerate(replay(ref)):
        z_src = sources(ref)[i : i + 1]
        z_t = ref.noised(z_src, d.noises[0], d.t).requires_grad_()
        ref.residual(z_src, z_t, SOURCES[i], d.t, 7.5).backward()
        z_t = (z_t - z_t.grad).detach()
        eps = (z_t - math.sqrt(ref.bars[d.t]) * z_src) / math.sqrt(1 - ref.bars[d.t])
        expected = 3.0 * cut_gradient(ref, i, d, eps, z_t, everything)
        assert_same((with_cut - without)[i : i + 1], expected)


def test_fpr_descends_the_gradient_that_finite_differences_find():
    kind = "v_prediction"
    ref, w = reference(kind), 7.5
    prompt = prior(kind).embed(SOURCES)
    d = replay(ref)
    t, eps = torch.tensor([x.t for x in d]), torch.cat([x.noises[0] for x in d])
    after, eps_star, residuals = fixed_point(
        IDS.Config(fpr_iterations=1), prior(kind), sources(ref), prompt, t, eps
    )
    for i in range(2):
        start = ref.noised(sources(ref)[i : i + 1], eps[i : i + 1], d[i].t)
        step = start - after[i : i + 1]  # λ = 1: the gradient of the norm
        with torch.no_grad():
            assert residuals[0][i] == pytest.approx(
                ref.residual(sources(ref)[i : i + 1], start, SOURCES[i], d[i].t, w).item()
            )
            for direction in (
                latents(ref, 5)[i : i + 1],
                step / step.norm(),
                torch.eye(256)[40 + i].view(1, 4, 8, 8).double(),
            ):
                up, down = (
                    ref.residual(
                        sources(ref)[i : i + 1], start + sign * 1e-5 * direction, SOURCES[i], d[i].t, w
                    )
                    for sign in (1, -1)
                )
                slope = (up - down) / 2e-5
                assert (step * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-7)
        assert_same(after[i : i + 1], ref.noised(sources(ref)[i : i + 1], eps_star[i : i + 1], d[i].t))
