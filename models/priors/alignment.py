"""Which tokens of two prompts correspond: Prompt-to-Prompt, Hertz et al. 2022, arXiv 2208.01626, section 3.2."""

from __future__ import annotations

from difflib import SequenceMatcher

import torch
from torch import Tensor


def align(source: Tensor, target: Tensor) -> Tensor:
    """Return, for each token of the target prompts, the source's whose map it takes, or -1: (b, l) of ids (b, l) each.

    Tokens that both prompts have, in order, and words exchanged for as many others (the paper's "word swap") take the
    source's maps; added ones keep their own ("prompt refinement").
    """
    where = torch.full_like(target, -1)
    for row, (a, b) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        for change, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            if change == "equal" or (change == "replace" and a1 - a0 == b1 - b0):
                where[row, b0:b1] = torch.arange(a0, a1)
    return where
