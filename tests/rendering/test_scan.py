from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ids3d.rendering import exclusive_prod, exclusive_sum, inclusive_prod, inclusive_sum, pack_info
from tests.rendering import reference

SCANS = {
    "inclusive_sum": (inclusive_sum, False, True),
    "exclusive_sum": (exclusive_sum, False, False),
    "inclusive_prod": (inclusive_prod, True, True),
    "exclusive_prod": (exclusive_prod, True, False),
}
COUNTS = {
    "mixed": [3, 0, 1, 8, 0, 0, 5, 17, 2],
    "one": [6],
    "ones": [1, 1, 1],
    "empty segments": [0, 0, 0],
    "no segments": [],
}


def packed_info(counts: list[int]) -> Tensor:
    counts_ = torch.tensor(counts, dtype=torch.int64)
    return torch.stack([counts_.cumsum(0) - counts_, counts_], dim=-1)


@pytest.fixture(params=SCANS)
def scan(request: pytest.FixtureRequest) -> tuple[Callable[[Tensor, Tensor], Tensor], bool, bool]:
    return SCANS[request.param]


def test_pack_info() -> None:
    indices = torch.tensor([0, 0, 2, 2, 2, 5])
    expected = [[0, 2], [2, 0], [2, 3], [5, 0], [5, 0], [5, 1], [6, 0]]
    assert pack_info(indices, 7).tolist() == expected
    assert pack_info(indices, 7).dtype == torch.int64
    assert pack_info(indices[:0], 2).tolist() == [[0, 0], [0, 0]]
    assert pack_info(indices[:0], 0).shape == (0, 2)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scan_equals_a_loop(scan, counts: list[int], dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    function, product, inclusive = scan
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(counts), generator=generator, dtype=torch.float64).to(dtype)
    expected: list[float] = []
    for segment in x.split(counts) if counts else []:
        expected += reference.scan(segment.tolist(), product, inclusive)
    result = function(x, packed_info(counts))
    assert result.dtype == dtype
    torch.testing.assert_close(
        result.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("counts", [COUNTS["mixed"], COUNTS["one"], COUNTS["empty segments"]])
def test_gradients(scan, counts: list[int]) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(sum(counts), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: scan[0](x, packed_info(counts)), x)
    assert torch.autograd.gradgradcheck(lambda x: scan[0](x, packed_info(counts)), x)


def test_gradient_of_a_product_at_zeros(scan) -> None:  # type: ignore[no-untyped-def]
    x = torch.tensor([0.5, 0.0, 2.0, 0.0, 0.0, 3.0], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: scan[0](x, packed_info([3, 3])), x)


def test_segments_do_not_feel_each_other(scan) -> None:  # type: ignore[no-untyped-def]
    x = torch.tensor([1.0, float("inf"), float("nan"), 2.0, 3.0, 1e30, 1e30, 0.25])
    info = packed_info([3, 2, 2, 1])
    result = scan[0](x, info)
    torch.testing.assert_close(result[3:5], scan[0](x[3:5], packed_info([2])), rtol=0, atol=0)
    torch.testing.assert_close(result[7:], scan[0](x[7:], packed_info([1])), rtol=0, atol=0)


def test_a_million_samples_in_single_precision() -> None:
    """A running sum over everything, less its value at a segment's start, is off by 1e-2 here; segments by 1e-6."""
    counts = torch.full((8000,), 125)
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(int(counts.sum()), generator=generator) * 10
    x[:125] = 1e6
    info = packed_info(counts.tolist())
    exact = x.double().view(-1, 125).cumsum(1).view(-1)
    torch.testing.assert_close(inclusive_sum(x, info).double(), exact, rtol=2e-6, atol=0)
    torch.testing.assert_close(exclusive_sum(x, info).double(), exact - x, rtol=2e-6, atol=1e-3)
    naive = x.cumsum(0) - torch.repeat_interleave(x.cumsum(0)[::125] - x[::125], 125)
    assert (naive - exact)[125:].abs().max() > 1e-2
