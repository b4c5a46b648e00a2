"""Which device a name stands for."""

from __future__ import annotations

import pytest
import torch

from ids3d.device import pick_device
from ids3d.errors import UserError


@pytest.mark.parametrize("has_cuda", [False, True])
def test_auto_is_cuda_where_there_is_a_device(monkeypatch: pytest.MonkeyPatch, has_cuda: bool) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_cuda)
    monkeypatch.setattr("torch.cuda.device_count", lambda: int(has_cuda))
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if has_cuda else "cpu")


def test_of_several_devices_one_is_chosen_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="device=cuda:2, but the CUDA devices are cuda:0 to cuda:1"):
        pick_device("cuda:2")


def test_cuda_without_a_device_and_other_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(UserError, match="no CUDA device"):
            pick_device(name)
    for name in ("gpu", "cuda:", "0", "cpu:0", ""):
        with pytest.raises(UserError, match="expected auto"):
            pick_device(name)
