"""A hundred lines of plain PyTorch that reconstruct a forward-facing scene: what anything more elaborate has to beat.

    python benchmarks/naive_ndc.py SCENE --max-size 128 --cpu-seconds 100

One dense grid of density and colour in normalised device coordinates, interpolated by `grid_sample`; equally spaced
samples along each ray, all of them evaluated; Adam on the squared error of random rays. No occupancy grid, no
coarse-to-fine, no view dependence, no regularisation but total variation.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ids3d.cameras import Cameras, Rays, Views
from ids3d.data.scenes.llff import LLFF
from ids3d.metrics import psnr
from ids3d.scene import Scene


@dataclass(frozen=True)
class NaiveConfig:
    """`nodes` of the grid, `samples` of a ray, `rays` of a step; learning rates, and the weight of total variation."""

    nodes: tuple[int, int, int] = (128, 96, 80)
    samples: int = 128
    rays: int = 1024
    lr: float = 0.1
    tv: float = 1e-3
    seed: int = 0


class Naive(torch.nn.Module):
    """Density and colour on a grid over the published coordinates, x and y in [-margin, margin], z in [-1, 1]."""

    def __init__(self, cfg: NaiveConfig, cameras: Cameras, near: float, margin: float = 1.5) -> None:
        super().__init__()
        back = F.normalize(cameras.c2w[:, :, 2].mean(0), dim=0)
        right = F.normalize(torch.linalg.cross(cameras.c2w[:, :, 1].mean(0), back, dim=0), dim=0)
        self.axes = torch.stack([right, torch.linalg.cross(back, right, dim=0), back])
        self.centre, self.near, self.cfg = cameras.centres.mean(0), near, cfg
        self.tangents = torch.tensor(
            [cameras.width / 2 / float(cameras.fx[0]), cameras.height / 2 / float(cameras.fy[0])]
        )
        self.scale = torch.tensor([1 / margin, 1 / margin, 1.0])
        x, y, z = cfg.nodes
        self.grid = torch.nn.Parameter(torch.zeros(1, 4, z, y, x))

    def forward(self, rays: Rays, jitter: Tensor | None = None) -> Tensor:
        """Colours (n, 3) of rays, by equations 25 and 26 of NeRF's appendix C and equation 3 of its text."""
        o, d = (rays.origins - self.centre) @ self.axes.T, rays.directions @ self.axes.T
        o = o - ((self.near + o[:, 2:]) / d[:, 2:]) * d
        start = torch.cat([-o[:, :2] / o[:, 2:] / self.tangents, 1 + 2 * self.near / o[:, 2:]], 1)
        end = torch.cat([-d[:, :2] / d[:, 2:] / self.tangents, torch.ones_like(d[:, 2:])], 1)
        n = self.cfg.samples
        t = (torch.arange(n) + (0.5 if jitter is None else jitter[:, None])) / n
        points = (start[:, None] + t.expand(len(o), n)[..., None] * (end - start)[:, None]) * self.scale
        values = F.grid_sample(self.grid, points[None, None], align_corners=True)[
            0, :, 0
        ]  # (4, rays, samples)
        alpha = 1 - torch.exp(-F.softplus(values[0] - 4) * 128 / n)
        through = torch.cumprod(torch.cat([torch.ones(len(o), 1), 1 - alpha[:, :-1] + 1e-10], 1), 1)
        return ((alpha * through) * torch.sigmoid(values[1:])).sum(-1).T

    def roughness(self) -> Tensor:
        return sum((self.grid.diff(dim=axis).square().mean() for axis in (2, 3, 4)), torch.zeros(()))


def reconstruct(scene: Scene, cpu_seconds: float, cfg: NaiveConfig | None = None) -> dict[str, float]:
    """Fit it for so much processor time; PSNR over the held-out and the first training views, and steps done."""
    cfg, train, test = cfg or NaiveConfig(), scene.train, scene.test
    field = Naive(cfg, train.cameras, scene.bounds.near)
    generator = torch.Generator().manual_seed(cfg.seed)
    adam = torch.optim.Adam(field.parameters(), lr=cfg.lr, betas=(0.9, 0.99), fused=True)
    start, steps, done = time.process_time(), 0, 0.0
    while done < 1:
        done = (time.process_time() - start) / cpu_seconds
        adam.param_groups[0]["lr"] = cfg.lr * 0.1 ** min(done, 1.0)
        sizes = (len(train), train.cameras.height, train.cameras.width)
        view, row, col = (torch.randint(size, (cfg.rays,), generator=generator) for size in sizes)
        jitter = torch.rand(cfg.rays, generator=generator)
        rgb = field(train.cameras.rays_at(view, row, col), jitter)
        loss = F.mse_loss(rgb, train.images[view, row, col]) + cfg.tv * field.roughness()
        adam.zero_grad()
        loss.backward()
        adam.step()
        steps += 1
    return {
        "psnr": _psnr(field, test, len(test)),
        "train_psnr": _psnr(field, train, len(test)),
        "steps": steps,
    }


@torch.no_grad()
def _psnr(field: Naive, views: Views, count: int) -> float:
    found = []
    for i in range(count):
        rays = views.cameras[i].rays().flatten()
        rgb = torch.cat([field(rays[at : at + 4096]) for at in range(0, len(rays), 4096)])
        found.append(psnr(rgb.view_as(views.images[i]), views.images[i]))
    return sum(found) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scene", help="a folder in LLFF's layout")
    parser.add_argument("--max-size", type=int, default=128, help="longest side of the images, pixels")
    parser.add_argument("--cpu-seconds", type=float, default=100.0, help="of processor time")
    arguments = parser.parse_args()
    scene = LLFF(LLFF.Config(root=arguments.scene, max_size=arguments.max_size)).load()
    for name, value in reconstruct(scene, arguments.cpu_seconds).items():
        print(f"{name} = {value:.4g}")


if __name__ == "__main__":
    main()
