"""Which device a config's word stands for."""

from __future__ import annotations

import pytest
import torch

from ids3d.device import pick_device
from ids3d.errors import UserError


@pytest.mark.parametrize("has_cuda", [False, True])
def test_the_device_is_what_was_asked_for_or_what_there_is(
    monkeypatch: pytest.MonkeyPatch, has_cuda: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if has_cuda else "cpu")


def test_a_missing_cuda_device_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        pick_device("cuda")
