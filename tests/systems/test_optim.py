"""The optimiser against its formula written out by hand."""

from __future__ import annotations

import pytest
import torch

from ids3d.systems.optim import CalibratedSGD, cosine


def test_calibrated_sgd_moves_a_linear_latent_by_lr_along_the_guidance() -> None:
    generator = torch.Generator().manual_seed(1)
    jacobian = torch.randn(5, 11, generator=generator, dtype=torch.float64) * 37
    parameter = torch.nn.Parameter(torch.randn(11, generator=generator, dtype=torch.float64))
    guidance = torch.randn(5, generator=generator, dtype=torch.float64)
    optimiser = CalibratedSGD([parameter], lr=0.0488)
    before = jacobian @ parameter.detach()
    parameter.grad = jacobian.T @ guidance
    optimiser.observe(float(guidance.square().sum()))
    optimiser.step()
    moved = jacobian @ parameter.detach() - before
    along = float(moved @ guidance / guidance.square().sum())
    assert along == pytest.approx(-0.0488, rel=1e-9)


def test_calibrated_sgd_follows_its_formula() -> None:
    generator = torch.Generator().manual_seed(2)
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimiser = CalibratedSGD([parameter], lr=0.5, smoothing=0.8)
    expected, top, bottom = torch.zeros(4), 0.0, 0.0
    for k in range(1, 5):
        gradient, signal = torch.randn(4, generator=generator), 0.3 * k
        parameter.grad = gradient
        optimiser.observe(signal)
        optimiser.step()
        top, bottom = 0.8 * top + 0.2 * float((gradient**2).sum()), 0.8 * bottom + 0.2 * signal
        expected = expected - 0.5 / (top / bottom) * gradient
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


def test_state_goes_through_a_state_dict() -> None:
    """Two steps, saved and loaded, two steps: the same bits as four steps."""

    def make(parameter: torch.nn.Parameter) -> CalibratedSGD:
        return CalibratedSGD([parameter], lr=0.1)

    def step(optimiser: CalibratedSGD, parameter: torch.nn.Parameter, k: int) -> None:
        parameter.grad = torch.arange(3.0) * k - 1
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
