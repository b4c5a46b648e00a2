"""How long a run will take and how much memory: a few steps of its own, timed before it begins, times what it counts.

Nothing of the run is touched: the steps are made on a field of their own, by a method of their own, with draws of their
own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ids3d.models.geometry.protocol import Smoothing
from ids3d.models.guidance.protocol import Guidance
from ids3d.models.priors.protocol import Prior, Prompt
from ids3d.models.renderers.protocol import Renderer
from ids3d.models.samplers.protocol import Sampler
from ids3d.scene import Scene
from ids3d.systems.storage import memory_figures
from ids3d.systems.work import Work

SIDE = 32
"""Of the small view whose rendering is timed, pixels."""

VIEWS = 2
"""Latents that are edited at once while that is timed."""


@dataclass(frozen=True)
class Costs:
    """Seconds that one of each takes here, and what memory grew by.

    Attributes:
        guided: a step of the method on one latent; of a sampler, a prediction of the noise.
        coded: an image through the encoder or the decoder.
        trained_ray, rendered_ray: a ray with and without gradients, in an empty field, where it takes longest.
        guided_gb, ray_gb: memory for one latent, and for a batch of rays. 0: no more than was in use before.
    """

    guided: float = 0.0
    coded: float = 0.0
    trained_ray: float = 0.0
    rendered_ray: float = 0.0
    guided_gb: float = 0.0
    ray_gb: float = 0.0

    def with_rays(self, rays: Costs) -> Costs:
        """These, with another's of the rays."""
        return replace(self, trained_ray=rays.trained_ray, rendered_ray=rays.rendered_ray, ray_gb=rays.ray_gb)

    def seconds(self, work: Work) -> float:
        """What some work takes."""
        return (
            self.guided * work.guided
            + self.coded * work.coded
            + self.trained_ray * work.trained_rays
            + self.rendered_ray * work.rendered_rays
        )


@dataclass(frozen=True)
class Estimate:
    """Time and memory in words, and what that rests on."""

    time: str
    memory: str
    basis: str


def seconds_of(step: Callable[[], object], device: torch.device, times: int = 2) -> float:
    """How long a step takes: the shortest of a few, after one that does not count."""
    taken = []
    for _ in range(1 + times):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def peak_gb(device: torch.device) -> float:
    """The most memory so far: of tensors on the GPU, or of this process."""
    figures = memory_figures(device)
    return figures.get("memory/peak_cuda_gb", figures["memory/peak_gb"])


@torch.no_grad()
def method_costs(
    prior: Prior, method: Guidance | Sampler, prompts: tuple[Prompt, Prompt], images: Tensor
) -> Costs:
    """Costs of the prior and the method on images (b, 3, h, w), at the size and as many as are timed at once."""
    device, before = images.device, peak_gb(images.device)
    z = prior.encode(images)
    b, generators = len(z), [torch.Generator().manual_seed(i) for i in range(len(z))]

    def step() -> None:
        if isinstance(method, Sampler):
            t = torch.full((b,), prior.schedule.num_timesteps // 2, device=device)
            prior.predict_noise(z, t, prompts[1].expand(b), 7.5)  # any ω but 0 and 1 costs the same
        else:
            method(z, z, *prompts, generators)

    guided = seconds_of(step, device, times=1) / b
    coded = seconds_of(lambda: prior.decode(z), device, times=1) / b
    return Costs(guided=guided, coded=coded, guided_gb=max(0.0, peak_gb(device) - before) / b)


def ray_costs(renderer: Renderer, scene: Scene, rays_at_once: int, device: torch.device) -> Costs:
    """Costs of rays of the training views through a renderer, which is changed by it."""
    cameras, generator = scene.train.cameras.to(device), torch.Generator().manual_seed(0)
    before = peak_gb(device)
    groups = renderer.parameter_groups()
    adam = torch.optim.Adam([*groups.density, *groups.appearance], lr=0.0, fused=True)
    sides = (len(cameras), cameras.height, cameras.width)

    def step() -> None:
        renderer.before_step(0, generator)
        pixels = (torch.randint(n, (rays_at_once,), generator=generator).to(device) for n in sides)
        render = renderer(cameras.rays_at(*pixels), generator)
        adam.zero_grad()
        loss = render.rgb.square().mean() + render.distortion()
        loss.backward()  # type: ignore[no-untyped-call]
        renderer.smooth(Smoothing(1.0, 1.0), generator)
        adam.step()

    trained = seconds_of(step, device, times=3) / rays_at_once
    ray_gb = max(0.0, peak_gb(device) - before)
    small = cameras[0].resized(SIDE, SIDE)
    rendered = seconds_of(lambda: renderer.render(small), device, times=3) / SIDE**2
    return Costs(trained_ray=trained, rendered_ray=rendered, ray_gb=ray_gb)


def basis_in_words(timed: Sequence[str], uncounted: Sequence[str]) -> str:
    """What an estimate rests on, and what it leaves out."""
    rests = f"from {' and '.join(timed)}, timed just now" if timed else "of what can be counted"
    return f"{rests}; not counted: {', '.join(uncounted)}"


def memory_in_words(device: torch.device, parts: Sequence[tuple[float, str]]) -> str:
    """The sum of some GB, and what each is for; of a GPU, beside what it has."""
    each = ", ".join(f"{gb:.2g} {what}" for gb, what in parts if gb >= 0.005)
    has = ""
    if device.type == "cuda":
        has = f" of the {torch.cuda.get_device_properties(device).total_memory / 1e9:.3g} of {device}"
    return f"about {sum(gb for gb, _ in parts):.2g} GB{has}: {each}"


def in_words(seconds: float) -> str:
    """A duration as people say it, to two figures.

    >>> in_words(0.4), in_words(42), in_words(100), in_words(487), in_words(9000)
    ('1 s', '42 s', '1.7 min', '8.1 min', '2.5 h')
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:.0f} {unit}"
    return f"{max(1, round(seconds))} s"


def total(parts: Sequence[tuple[str, float | None]], at_most: bool = False) -> str:
    """The seconds of the phases and of all, in words; None: not known.

    >>> total([("reconstruct", 120.0), ("edit", None)], at_most=True)
    'about 2 min or less, and edit, which is not known: reconstruct 2 min'
    """
    known = [(name, seconds) for name, seconds in parts if seconds is not None]
    unknown = [name for name, seconds in parts if seconds is None]
    if not known:
        return "not known"
    each = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in known)
    rest = f", and {' and '.join(unknown)}, which is not known" if unknown else ""
    whole = f"about {in_words(sum(seconds for _, seconds in known))}{' or less' if at_most else ''}"
    return f"{whole}{rest}" + (f": {each}" if len(parts) > 1 else "")
