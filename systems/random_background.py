"""Colours behind rays, drawn anew in each step, so that a field becomes as opaque as what it is fitted to."""

from __future__ import annotations

import torch
from torch import Tensor

from ids3d.models.renderers.protocol import RayRender

BLACK = (0.0, 0.0, 0.0)


def before_random_background(
    render: RayRender,
    target: Tensor,
    opacity: Tensor | None,
    background: tuple[float, float, float] | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Lay rays and what they are fitted to over one random colour each, in place of the background they were over.

    Where the field lets more of it through than the target does, they differ: what is dark cannot be left empty.

    Args:
        render: of n rays.
        target: (n, 3) what they should show, over the background.
        opacity: (n,) the target's; None: nothing is known of it, and nothing is changed.
        background: the scene's; None: black.
        generator: a CPU generator, of the colours.

    Returns:
        Two (n, 3), the first differentiable in what the render is.
    """
    if opacity is None:
        return render.rgb, target
    behind = torch.rand(target.shape, generator=generator).to(target)
    shift = behind - behind.new_tensor(background or BLACK)
    return render.rgb + (1 - render.opacity)[:, None] * shift, target + (1 - opacity)[:, None] * shift
