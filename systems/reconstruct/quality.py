"""How near a reconstruction comes to photographs that it has seen, and that it has not; a word where that is poor."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ids3d.cameras import Views
from ids3d.metrics import depth_error, mean_of_finite, psnr
from ids3d.models.renderers.protocol import Renderer
from ids3d.progress import track

log = logging.getLogger(__name__)

POOR = 20.0  # dB below which a field is a blur
APART = 5.0  # dB by which views that were not seen may be worse before the field is their photographs' alone
SEEN = 4  # training views that are looked at, at most


def view_psnr(
    renderer: Renderer, views: Views, indices: Sequence[int], device: torch.device, label: str
) -> float:
    """The mean PSNR of some views, dB, over what is known of their photographs.

    Args:
        device: the renderer's.
        label: of the progress.
    """
    values = []
    for i in track(indices, label):
        image = renderer.render(views.cameras[i].to(device)).rgb.cpu()
        values.append(psnr(image, views.images[i], None if views.known is None else views.known[i]))
    return mean_of_finite(values)


def relative_depth_error(renderer: Renderer, views: Views, depths: Tensor, device: torch.device) -> float:
    """How far a field's depth is from the true one, on average over some views, as a share of the scene's size.

    The size is the longest side of the box, along the scene's axes, around all that the views truly show. nan where
    nothing is known.

    Args:
        depths: (n, h, w), the true ones along the views' rays, scene units.
        device: the renderer's.
    """
    errors, points = [], []
    for i in track(range(len(views)), "depth"):
        camera = views.cameras[i]
        errors.append(depth_error(renderer.render(camera.to(device)).depth.cpu(), depths[i])[0])
        rays = camera.rays()
        points.append((rays.origins + depths[i][..., None] * rays.directions).flatten(0, -2))
    seen = torch.cat(points)
    size = (seen.amax(0) - seen.amin(0)).max()
    return mean_of_finite(errors) / float(size)


def evenly(count: int, most: int = SEEN) -> list[int]:
    """Numbers below `count`, at most so many, evenly spread and without the ends."""
    chosen = min(count, most)
    return [(2 * i + 1) * count // (2 * chosen) for i in range(chosen)]


def warn_of_poor(held_out: float, training: float) -> None:
    """Say so if a field is a blur, or shows its own photographs far better than others, and where to read on."""
    advice = "what to try, by what is seen, is in docs/guides/phone.md"
    if training < POOR:
        log.warning("the reconstruction is a blur: %.1f dB over its own photographs; %s", training, advice)
    elif held_out < POOR or training - held_out > APART:
        log.warning(
            "the reconstruction does not hold from elsewhere: %.1f dB over its own photographs, %.1f over those held "
            "out, as where few show the same, or cameras are off; %s",
            *(training, held_out, advice),
        )
