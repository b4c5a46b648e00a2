"""Edit images from one prompt to another: by a method's gradient on the latent, or by a method that samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ids3d.config.bounds import STEPS, check_bounds
from ids3d.models.guidance.protocol import Guidance
from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.models.samplers.protocol import Sampler
from ids3d.registry import register
from ids3d.seeding import generator_for
from ids3d.systems.divergence import GOOD_EVERY, IN_A_ROW, ROLLBACKS, SLOWER, finite_views
from ids3d.systems.edit_images.protocol import EditedLatents, Show
from ids3d.systems.work import PASSES, Work


@register("edit-images", "latents")
class EditImages:
    """Edits batches of images of one size, each as it would be edited alone.

    Args:
        cfg: settings.
        prior, method: frozen.
        seed: with an image's name, determines its noise and timesteps.
    """

    @dataclass
    class Config:
        steps: int = 200  # steps of a method that gives a gradient; one that samples has its own
        # The step: as published, 0.1 * 2000 / (64 * 64) per element of the latent, whatever its size. Made for
        # gradients of differences of noises, as SDS, DDS, CDS and IDS give; PDS's are several times as large.
        lr: float = 0.0488
        batch_size: int = 4  # images at once: memory and speed, not the result

        def __post_init__(self) -> None:
            check_bounds(self, steps=STEPS, lr="(0, 1000]", batch_size="[1, 1000]")

    def __init__(self, cfg: Config, prior: Prior, method: Guidance | Sampler, seed: int) -> None:
        self.cfg, self.prior, self.method, self.seed = cfg, prior, method, seed

    def work(self) -> Work:
        """See `CountsWork`: of one image."""
        cfg, method = self.cfg, self.method
        steps = PASSES * method.cfg.steps if isinstance(method, Sampler) else cfg.steps
        by = "predictions" if isinstance(method, Sampler) else f"steps of lr={cfg.lr:g}"
        return Work(
            f"{steps:,} {by} on each image, {cfg.batch_size} at once",
            guided=steps,
            batch=cfg.batch_size,
            coded=2,
        )

    def edit(
        self,
        images: Tensor,
        source: Prompt,
        target: Prompt,
        names: Sequence[str],
        show: Show | None = None,
    ) -> EditedLatents:
        """The edited latents (b, c, h, w) of images (b, 3, H, W) in [0, 1].

        Args:
            source, target: b prompts each.
            names: the images', from which their draws come.
            show: gets the latents, the share of the work done and the method's figures, after each step.
        """
        with torch.no_grad():
            z_src = self.prior.encode(images)
        generators = [generator_for(self.seed, f"image/{name}") for name in names]
        if isinstance(self.method, Sampler):
            on_the_way = None if show is None else lambda z, done: show(z, done, {})
            z = self.method.edit(z_src, source, target, generators, on_the_way)
            return EditedLatents(z, [0] * len(z), (~finite_views(z)).tolist())
        return optimise(
            self.method, z_src, source, target, generators, self.cfg.steps, self.cfg.lr, show=show
        )


def optimise(
    guidance: Guidance,
    z_src: Tensor,
    source: Prompt,
    target: Prompt,
    generators: Sequence[torch.Generator],
    steps: int = 200,
    lr: float = 0.0488,
    show: Show | None = None,
) -> EditedLatents:
    """Edit latents (b, c, h, w): plain SGD from their sources, as DDS, CDS and IDS are published.

    An image whose gradient is not finite stays as it is in that step. After IN_A_ROW such steps in a row it goes back
    to what it was GOOD_EVERY steps ago or less, and on at half the rate; after ROLLBACKS of that it is given up.
    """
    z_trg = z_good = z_src.clone()
    skipped, in_a_row, rollbacks = ([0] * len(z_src) for _ in range(3))
    for step in range(steps):
        if step % GOOD_EVERY == 0:
            well = z_trg.new_tensor(in_a_row)[:, None, None, None] == 0
            z_good = torch.where(well, z_trg, z_good)
        output = guidance(z_src, z_trg, source, target, generators, progress=step / steps)
        finite, moved = finite_views(output.grad), lr * output.grad
        if any(rollbacks):
            moved = moved * moved.new_tensor([SLOWER**n for n in rollbacks])[:, None, None, None]
        z_trg = torch.where(finite[:, None, None, None], z_trg - moved, z_trg)
        for i, is_finite in enumerate(finite.tolist()):
            in_a_row[i] = 0 if is_finite else in_a_row[i] + 1
            skipped[i] += not is_finite
            if in_a_row[i] == IN_A_ROW and rollbacks[i] <= ROLLBACKS:
                in_a_row[i], rollbacks[i] = 0, rollbacks[i] + 1
                z_trg[i] = z_good[i]
        if show is not None:
            show(z_trg, (step + 1) / steps, output.figures)
    given_up = [n > ROLLBACKS or i for n, i in zip(rollbacks, (~finite_views(z_trg)).tolist(), strict=True)]
    return EditedLatents(z_trg, skipped, given_up)
