"""The optimisers against their formulas written out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ids3d.systems.optim import CalibratedSGD, ScalarAdam, cosine, wiener_gain


def test_scalar_adam_follows_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(7, generator=generator))
    expected, mean, square = parameter.detach().clone(), torch.zeros(7), 0.0
    optimiser = ScalarAdam([parameter], lr=0.1, betas=(0.8, 0.9), eps=0.0)
    for k in range(1, 6):
        gradient = torch.randn(7, generator=generator)
        gradient[:3] = 0.0  # never touched: outside of the mean, and must not move
        parameter.grad = gradient
        optimiser.step()
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.9 * square + 0.1 * float((gradient**2).sum()) / 4
        expected = expected - 0.1 * (mean / (1 - 0.8**k)) / math.sqrt(square / (1 - 0.9**k))
    torch.testing.assert_close(parameter.detach(), expected)


def test_scalar_adam_of_one_number_is_adam() -> None:
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.5])) for _ in range(2))
    adam = torch.optim.Adam([theirs], lr=0.05, betas=(0.9, 0.99))
    optimisers = (ScalarAdam([ours], lr=0.05, eps=1e-8), adam)
    for gradient in (0.3, -1.0, 2.0, 0.01):
        ours.grad, theirs.grad = torch.tensor([gradient]), torch.tensor([gradient])
        for optimiser in optimisers:
            optimiser.step()
    torch.testing.assert_close(ours, theirs)


def test_scalar_adam_keeps_the_proportions_of_a_gradient() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimiser = ScalarAdam([parameter], lr=0.1)
    for _ in range(20):
        parameter.grad = torch.tensor([1.0, 0.001])
        optimiser.step()
    assert float(parameter.detach()[1] / parameter.detach()[0]) == pytest.approx(0.001, rel=1e-4)


def test_calibrated_sgd_moves_a_linear_latent_by_lr_along_the_guidance() -> None:
    generator = torch.Generator().manual_seed(1)
    jacobian = torch.randn(5, 11, generator=generator, dtype=torch.float64) * 37
    parameter = torch.nn.Parameter(torch.randn(11, generator=generator, dtype=torch.float64))
    guidance = torch.randn(5, generator=generator, dtype=torch.float64)
    optimiser = CalibratedSGD([parameter], lr=0.0488, momentum=0.9)
    before = jacobian @ parameter.detach()
    parameter.grad = jacobian.T @ guidance
    optimiser.observe(float(guidance.square().sum()))
    optimiser.step()
    moved = jacobian @ parameter.detach() - before
    along = float(moved @ guidance / guidance.square().sum())
    assert along == pytest.approx(-0.0488, rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_calibrated_sgd_follows_its_formula(momentum: float) -> None:
    generator = torch.Generator().manual_seed(2)
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimiser = CalibratedSGD([parameter], lr=0.5, momentum=momentum, smoothing=0.8)
    expected, mean, top, bottom = torch.zeros(4), torch.zeros(4), 0.0, 0.0
    for k in range(1, 5):
        gradient, signal = torch.randn(4, generator=generator), 0.3 * k
        parameter.grad = gradient
        optimiser.observe(signal)
        optimiser.step()
        top, bottom = 0.8 * top + 0.2 * float((gradient**2).sum()), 0.8 * bottom + 0.2 * signal
        mean = momentum * mean + (1 - momentum) * gradient
        expected = expected - 0.5 / (top / bottom) * mean / (1 - momentum**k)
    torch.testing.assert_close(parameter.detach(), expected)


def test_calibrated_sgd_wants_a_measure_and_bears_silence() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimiser = CalibratedSGD([parameter], lr=1.0)
    parameter.grad = torch.zeros(2)
    with pytest.raises(RuntimeError, match="observe"):
        optimiser.step()
    optimiser.observe(0.0)
    optimiser.step()
    assert parameter.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["scalar-adam", "sgd"])
def test_state_goes_through_a_state_dict(kind: str) -> None:
    """Two steps, saved and loaded, two steps: the same bits as four steps."""

    def make(parameter: torch.nn.Parameter) -> ScalarAdam | CalibratedSGD:
        return (ScalarAdam if kind == "scalar-adam" else CalibratedSGD)([parameter], lr=0.1)

    def step(optimiser: ScalarAdam | CalibratedSGD, parameter: torch.nn.Parameter, k: int) -> None:
        parameter.grad = torch.arange(3.0) * k - 1
        if isinstance(optimiser, CalibratedSGD):
            optimiser.observe(1.0 + k)
        optimiser.step()

    whole = torch.nn.Parameter(torch.ones(3))
    first = make(whole)
    for k in range(4):
        step(first, whole, k)
    part = torch.nn.Parameter(torch.ones(3))
    second = make(part)
    for k in range(2):
        step(second, part, k)
    copy = torch.nn.Parameter(part.detach().clone())
    third = make(copy)
    third.load_state_dict(second.state_dict())
    for k in range(2, 4):
        step(third, copy, k)
    assert torch.equal(copy, whole)


def test_cosine() -> None:
    assert [cosine(p) for p in (-1, 0, 0.5, 1, 2)] == pytest.approx([1, 1, 0.5, 0, 0])
    assert cosine(1, floor=0.1) == pytest.approx(0.1)


def test_the_wiener_gain_keeps_what_steps_agree_on() -> None:
    """Against the averages' definition, and against what it is for: signal with little noise, and noise alone."""
    generator = torch.Generator().manual_seed(0)
    n, momentum, steps = 4000, 0.9, 60
    truth = torch.cat([torch.full((n,), 1.0), torch.zeros(n)])
    weights = torch.tensor([momentum ** (steps - 1 - i) for i in range(steps)], dtype=torch.float64)
    weights = weights / weights.sum()
    draws = truth + torch.randn(steps, 2 * n, generator=generator, dtype=torch.float64)
    mean, square = weights @ draws, weights @ draws.square()
    gain = wiener_gain(mean, square, momentum, steps)
    c = float(weights.square().sum())
    by_hand = (1 - (square - mean.square()) * c / (1 - c) / mean.square()).clamp(0, 1)
    torch.testing.assert_close(gain, by_hand)
    # The noise's variance in the average is c, about 0.05, beside a signal of 1.
    assert float(gain[:n].mean()) > 0.9
    drift, kept = (mean[n:].square().mean().sqrt(), (gain * mean)[n:].square().mean().sqrt())
    assert float(kept) < 0.75 * float(drift)
    assert torch.equal(wiener_gain(mean, square, momentum, 1), torch.ones_like(mean))


def test_shrinking_leaves_what_never_changes_alone() -> None:
    """A gradient that is the same at each step is all signal: the same path as without shrinking."""
    paths = []
    for shrink in (False, True):
        p = torch.nn.Parameter(torch.zeros(3))
        optimiser = CalibratedSGD([p], lr=0.1, shrink=shrink)
        for _ in range(5):
            p.grad = torch.tensor([1.0, -2.0, 0.0])
            optimiser.observe(1.0)
            optimiser.step()
        paths.append(p.detach().clone())
    torch.testing.assert_close(paths[0], paths[1])
