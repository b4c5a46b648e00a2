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
from ids3d.systems.edit_images.protocol import Show


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
        steps: int = 200  # of a method that gives a gradient; one that samples has its own
        # The published step, 0.1 * 2000 / (64 * 64) per element of the latent, whatever its size. Made for gradients of
        # differences of noises, as SDS, DDS, CDS and IDS give; PDS's are several times as large.
        lr: float = 0.0488
        batch_size: int = 4  # images at once: memory and speed, not the result

        def __post_init__(self) -> None:
            check_bounds(self, steps=STEPS, lr="(0, 1000]", batch_size="[1, 1000]")

    def __init__(self, cfg: Config, prior: Prior, method: Guidance | Sampler, seed: int) -> None:
        self.cfg, self.prior, self.method, self.seed = cfg, prior, method, seed

    def edit(
        self,
        images: Tensor,
        source: Prompt,
        target: Prompt,
        names: Sequence[str],
        show: Show | None = None,
    ) -> Tensor:
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
            return self.method.edit(z_src, source, target, generators, on_the_way)
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
) -> Tensor:
    """The edited latents (b, c, h, w): plain SGD from their sources, as DDS, CDS and IDS are published."""
    z_trg = z_src.clone()
    for step in range(steps):
        output = guidance(z_src, z_trg, source, target, generators, progress=step / steps)
        z_trg = z_trg - lr * output.grad
        if show is not None:
            show(z_trg, (step + 1) / steps, output.figures)
    return z_trg
