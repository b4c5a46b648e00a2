"""How well a prior edits: held-out pictures edited by DDS in two dimensions, against their true edits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ids3d.metrics import psnr
from ids3d.progress import track
from ids3d.tabletop.edits import edit_camera, held_out_edit, render_edit
from ids3d.tabletop.scene import HELD_OUT
from ids3d.tabletop.world import World


@dataclass(frozen=True)
class EditQuality:
    """One edit's figures, dB.

    gain: of the PSNR to the true edit, inside the mask of what the edit touches, over the unedited picture's.
    outside: PSNR to the source outside the mask.
    """

    gain: float
    outside: float


@torch.no_grad()
def edit_quality(
    prior: Path,
    world: World,
    size: int,
    kind: str,
    count: int,
    steps: int | None,
    device: str,
    batch: int = 8,
) -> list[EditQuality]:
    """Edit `count` held-out scenes of a kind ("recolour", "reshape") by DDS as configs/ids-image.yaml has it.

    Args:
        prior: the folder, in diffusers' layout.
        world: whose scenes.
        size: of the pictures, pixels.
        kind: of edit.
        count: how many.
        steps: of the edit; None: as many as the config says.
        device: where the prior runs.
        batch: pictures edited at once; the result does not depend on it but by rounding.
    """
    # Here, for those who only draw scenes need none of the models.
    from ids3d.config import find_config
    from ids3d.experiment import ImageJob, load

    given = ["guidance=dds", f"prior.path={prior.resolve()}"]
    if steps is not None:
        given.append(f"edit.steps={steps}")
    job = load([find_config("configs/ids-image.yaml")], given)
    assert isinstance(job, ImageJob)
    model = job.prior.build().to(torch.device(device))
    editor = job.edit.build(model, job.guidance.build(model), job.seed)
    found = []
    for start in track(range(0, count, batch), f"editing, {kind}", unit="batch"):
        indices = range(start, min(start + batch, count))
        edits = [held_out_edit(index, (kind,), world=world) for index in indices]
        views = [
            render_edit(edit, edit_camera(HELD_OUT + index, edit, size))
            for index, edit in zip(indices, edits, strict=True)
        ]
        sources = torch.stack([view.before.rgb.permute(2, 0, 1) for view in views]).to(device)
        captions = (model.embed([getattr(edit, which) for edit in edits]) for which in ("source", "target"))
        edited = model.decode(
            editor.edit(sources, *captions, [f"{kind}-{index}" for index in indices]).latents
        )
        for image, view in zip(edited.clamp(0, 1).permute(0, 2, 3, 1).cpu(), views, strict=True):
            unedited = psnr(view.before.rgb, view.after.rgb, view.mask)
            gain = psnr(image, view.after.rgb, view.mask) - unedited
            found.append(EditQuality(gain, psnr(image, view.before.rgb, ~view.mask)))
    return found
