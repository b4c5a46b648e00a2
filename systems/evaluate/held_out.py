"""Evaluate an edited scene on its held-out views: figures, images and a film."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import ids3d
from ids3d.config.bounds import check_bounds
from ids3d.images import (
    colour_depth,
    depth_range,
    difference,
    panel,
    require_ffmpeg,
    save_image,
)
from ids3d.metrics import ClipScore, mean_of_finite, psnr
from ids3d.models.renderers.protocol import Render, Renderer
from ids3d.progress import track
from ids3d.registry import register
from ids3d.scene import Scene
from ids3d.systems.edit_scene.editing import comparison
from ids3d.systems.film import path_near_cameras, write_film
from ids3d.systems.storage import write_rows
from ids3d.systems.work import Work
from ids3d.tracking import Row, Tracking

VIEWS = "views.csv"
"""The file of the figures of each held-out view, in the run's folder."""

TABLETOP_CLIP = Path(ids3d.__file__).parent / "weights" / "tabletop" / "clip"


def show_reconstruction(
    scene: Scene,
    renderer: Renderer,
    folder: Path,
    device: torch.device,
    check: Callable[[], None],
    tracking: Tracking,
) -> None:
    """Write each held-out view to renders/: the photograph, the render, its depth and the difference, and a panel.

    Args:
        check: called between two views; may raise to stop.
        tracking: gets the panels and a table of them.
    """
    rows = []
    for i in track(range(len(scene.test)), "renders"):
        check()
        render, photograph = (
            renderer.render(scene.test.cameras[i].to(device)),
            scene.test.images[i].to(device),
        )
        depths, name = depth_range([render.surface_depth]), scene.test.names[i]
        images = {
            "photograph": photograph,
            "render": render.rgb,
            "difference": difference(render.rgb, photograph),
            "depth": colour_depth(render.surface_depth, *depths),
        }
        shown = panel(images, depths=depths)
        write_images(folder / "renders", name, images, shown)
        tracking.log_panel(f"reconstruction/{name}", shown, 0)
        rows.append(Row(name, images, {"psnr": psnr(render.rgb, photograph)}))
    tracking.log_table("reconstruction/views", rows, 0)


def write_images(renders: Path, name: str, images: dict[str, Tensor], shown: Tensor) -> None:
    """Write a view's images, and how they are shown side by side, as PNGs called after the view."""
    for label, image in images.items():
        save_image(renders / f"{name}_{label.replace(' ', '_')}.png", image)
    save_image(renders / f"{name}_panel.png", shown)


@register("evaluate", "held-out")
class Evaluate:
    """Renders the held-out views of a field before and after the edit, and measures.

    Args:
        cfg: settings.
        scene: its held-out views, and the truth of the edit where it is known.
        target: the target prompt.
        folder: the run's; images go to renders/, the film to video.mp4.
        check: called between two views; may raise to stop.
        tracking: gets the panels, a table of them with each view's figures, and the film.
    """

    @dataclass
    class Config:
        # What judges: a CLIPModel's folder or hub name; tabletop: the bundled one; null: none.
        clip: str | None = "tabletop"
        film_frames: int = 48  # frames of video.mp4; 0 = no film
        film_fps: int = 24  # frames a second
        film_size: int = 192  # the film's longest side in pixels; images are not enlarged

        def __post_init__(self) -> None:
            check_bounds(self, film_frames="[0, 1e5]", film_fps="[1, 240]", film_size="[16, 8192]")

    def __init__(
        self,
        cfg: Config,
        scene: Scene,
        target: str,
        folder: Path,
        device: torch.device,
        check: Callable[[], None],
        tracking: Tracking | None = None,
    ) -> None:
        self.cfg, self.scene, self.target, self.folder = cfg, scene, target, folder
        self.device, self.check, self.tracking = device, check, tracking
        self.clip = self._load_clip()
        if cfg.film_frames:
            require_ffmpeg(" (evaluate.film_frames=0: none)")

    def _load_clip(self) -> ClipScore | None:
        if self.cfg.clip is None:
            return None
        return ClipScore(TABLETOP_CLIP if self.cfg.clip == "tabletop" else self.cfg.clip).to(self.device)

    def work(self) -> Work:
        """See `CountsWork`."""
        cfg, test = self.cfg, self.scene.test
        height, width = self._film_size()
        film = f", a film of {cfg.film_frames} frames of {width}x{height}" if cfg.film_frames else ""
        return Work(
            f"{len(test)} held-out views before and after{film}",
            rendered_rays=2 * test.pixels + 2 * cfg.film_frames * height * width,
        )

    def _film_size(self) -> tuple[int, int]:
        """(height, width) of each of the film's halves."""
        cameras = self.scene.train.cameras
        scale = min(1.0, self.cfg.film_size / max(cameras.height, cameras.width))
        return round(cameras.height * scale), round(cameras.width * scale)

    def figures(self, source: Renderer, edited: Renderer, step: int) -> dict[str, float]:
        """The figures over the held-out views, under the names of metrics.json; writes the views' images.

        Means over views of each view's figure; views on which a figure is undefined (an empty mask) are left out.
        """
        test, rows, each = self.scene.test, list[Row](), list[dict[str, float]]()
        for i in track(range(len(test)), "evaluating"):
            self.check()
            camera = test.cameras[i].to(self.device)
            before, after = source.render(camera), edited.render(camera)
            images = self._write(i, before, after, step)
            each.append(self._measure(i, before.rgb.cpu(), after.rgb.cpu()))
            rows.append(Row(test.names[i], images, {**each[-1]}))
        named = zip(test.names, each, strict=True)
        write_rows(self.folder / VIEWS, [{"view": name, **view} for name, view in named])
        if self.tracking is not None:
            self.tracking.log_table("evaluate/views", rows, step)
        figures = {name: mean_of_finite(view[name] for view in each) for name in (each[0] if each else {})}
        if self.clip is not None and each:
            rose = [view["edit/clip_score"] > view["source/clip_score"] for view in each]
            figures["edit/clip_improved"] = sum(rose) / len(rose)
        return figures

    def _measure(self, i: int, before: Tensor, after: Tensor) -> dict[str, float]:
        """One view's figures."""
        test = self.scene.test
        known = None if test.known is None else test.known[i]
        figures = {"source/psnr": psnr(before, test.images[i], known)}
        truth = self.scene.truth
        for name, image in (("source", before), ("edit", after)):
            if truth is not None:
                figures[f"{name}/psnr_inside"] = psnr(image, truth.images[i], truth.masks[i])
                figures[f"{name}/psnr_outside"] = psnr(image, truth.images[i], ~truth.masks[i])
            if self.clip is not None:
                score = self.clip(image.permute(2, 0, 1)[None].to(self.device), [self.target])
                figures[f"{name}/clip_score"] = float(score)
        return figures

    def _write(self, i: int, before: Render, after: Render, step: int) -> dict[str, Tensor]:
        name, compared, truth = self.scene.test.names[i], comparison(before, after), self.scene.truth
        renders = self.folder / "renders"
        write_images(renders, name, compared.images, compared.panel())
        save_image(renders / f"{name}_photograph.png", self.scene.test.images[i])
        save_image(renders / f"{name}_depths.png", compared.depth_maps())
        if truth is not None:
            save_image(renders / f"{name}_true_edit.png", truth.images[i])
        if self.tracking is not None:
            self.tracking.log_panel(f"evaluate/{name}", compared.two_rows(), step)
        return compared.images

    def film(self, source: Renderer, edited: Renderer, step: int) -> None:
        """video.mp4: the source beside the edit, along a smooth path near the training cameras."""
        if not self.cfg.film_frames:
            return
        path = path_near_cameras(self.scene, self.scene.layout, self.cfg.film_frames)
        path = path.resized(*self._film_size()).to(self.device)
        video = self.folder / "video.mp4"
        write_film(video, path, [source, edited], self.cfg.film_fps, self.check)
        if self.tracking is not None:
            self.tracking.log_video("evaluate/film", video, step)
