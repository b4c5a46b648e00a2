"""What the training of the tabletop UNet weighs."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ids3d.errors import UserError
from ids3d.systems.train.denoiser import LATENT, build_unet
from ids3d.systems.train.graphs import Predictor
from ids3d.systems.train.tabletop_unet import TabletopUNet
from ids3d.systems.train.timesteps import middle_timesteps, noisiest_timesteps
from ids3d.tabletop.patches import WALL_CLASS


def test_objects_and_their_surroundings_weigh_more_where_they_can_be_seen() -> None:
    labels = torch.zeros(2, LATENT, LATENT, dtype=torch.long)
    labels[:, 5:8, 9:11] = WALL_CLASS + 3  # six latent pixels, and 14 around them
    labels[:, 0] = WALL_CLASS
    cfg = SimpleNamespace(cfg=TabletopUNet.Config(object_weight=4.0))
    weights = TabletopUNet._object_weights(cfg, labels.flatten(1), torch.tensor([True, False]))  # type: ignore[arg-type]
    assert torch.equal(weights[1], torch.ones(LATENT, LATENT))
    heavy = torch.zeros(LATENT, LATENT, dtype=torch.bool)
    heavy[4:9, 8:12] = True
    mean = (20 * 4 + (256 - 20)) / 256
    assert torch.allclose(weights[0][heavy], torch.tensor(4 / mean))
    assert torch.allclose(weights[0][~heavy], torch.tensor(1 / mean))


def test_middle_timesteps_follow_the_density_of_mode_sampling() -> None:
    """The share of timesteps below x is the quantile u at which the transform of eq. 20 falls to x, by bisection."""
    count, middle = 20_000, 0.8
    t = middle_timesteps(count, middle, torch.Generator().manual_seed(0))
    assert t.min() >= 0 and t.max() <= 999
    for x in (0.1, 0.3, 0.5, 0.8):
        low, high = 0.0, 1.0
        for _ in range(50):
            u = (low + high) / 2
            value = 1 - u - middle * (math.cos(math.pi / 2 * u) ** 2 - 1 + u)
            low, high = (u, high) if value > x else (low, u)
        assert abs((t < 1000 * x).double().mean().item() - (1 - low)) < 2e-3


def test_without_a_middle_all_timesteps_are_drawn_alike() -> None:
    t = middle_timesteps(1000, 0.0, torch.Generator().manual_seed(0))
    assert (t.sort().values - torch.arange(1000)).abs().max() <= 1


def test_the_noisiest_timesteps_are_the_last_tenth_all_alike() -> None:
    t = noisiest_timesteps(200, torch.Generator().manual_seed(0))
    found, counts = t.unique(return_counts=True)
    assert found.tolist() == list(range(900, 1000)) and counts.unique().tolist() == [2]
    assert noisiest_timesteps(0, torch.Generator()).shape == (0,)


def small_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return build_unet(TabletopUNet.Config(widths=(16, 32), text_width=8), channels=4)


def a_call(device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, 4, LATENT, LATENT, generator=generator)
    text = torch.randn(2, 5, 8, generator=generator)
    return noisy.to(device), torch.tensor([10, 900], device=device), text.to(device).requires_grad_()


def gradients(predict: Predictor, unet: UNet2DConditionModel, device: str) -> list[Tensor]:
    """Of a sum that both results are part of: the text's gradient, and each parameter's."""
    call = a_call(device)
    velocity, features = predict(*call)
    unet.zero_grad()
    (velocity.square().sum() + features.square().sum()).backward()
    return [call[2].grad, *(p.grad for p in unet.parameters())]  # type: ignore[list-item]


def test_a_prediction_is_the_unets_with_the_features_before_its_last_level() -> None:
    unet, seen = small_unet(), []
    predict = Predictor(unet, half=False)
    velocity, features = predict(*a_call())
    unet.up_blocks[-1].register_forward_pre_hook(
        lambda block, args, taken: seen.append(taken["hidden_states"]), with_kwargs=True
    )
    expected = unet(*a_call()).sample
    assert torch.equal(velocity, expected) and torch.equal(features, seen[0])
    assert all(g is not None for g in gradients(predict, unet, "cpu"))


def test_what_is_recorded_has_the_shapes_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a GPU can record: a stand-in calls the module as PyTorch does, and looks at what it is called with."""
    unet, given = small_unet(), []

    def make(module: nn.Module, sample: tuple[Tensor, ...]) -> nn.Module:
        given.extend(sample)
        velocity, features = module(*sample)
        assert (
            velocity.requires_grad
            and features.requires_grad
            and {*module.parameters()} == {*unet.parameters()}
        )
        return module

    monkeypatch.setattr("torch.cuda.make_graphed_callables", make)
    Predictor(unet, half=True).record(2, 4, LATENT, (5, 8))
    for sample, real in zip(given, a_call(), strict=True):
        assert (sample.shape, sample.dtype, sample.requires_grad) == (
            real.shape,
            real.dtype,
            real.requires_grad,
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_recording_has_the_gradients_of_the_passes_that_it_repeats() -> None:
    plain, recorded = small_unet().cuda(), small_unet().cuda()
    expected = gradients(Predictor(plain, half=False), plain, "cuda")
    predict = Predictor(recorded, half=False)
    predict.record(2, 4, LATENT, (5, 8))
    for _ in range(2):
        torch.testing.assert_close(gradients(predict, recorded, "cuda"), expected, rtol=1e-3, atol=1e-4)


def test_there_is_no_recording_without_a_gpu() -> None:
    module = SimpleNamespace(cfg=TabletopUNet.Config(cuda_graph=True), device=torch.device("cpu"))
    with pytest.raises(UserError, match=r"train\.cuda_graph: there is no recording without device=cuda"):
        TabletopUNet.on_fit_start(module)  # type: ignore[arg-type]
