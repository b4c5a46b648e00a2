"""One job that edits images: reads them, skips what is edited already, edits in batches, writes and measures."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import torch
from torch import Tensor

from ids3d.device import pick_device
from ids3d.errors import RunFailed, UserError
from ids3d.experiment import ImageJob
from ids3d.files import locked
from ids3d.images import difference, panel, resize, save_image
from ids3d.metrics import ClipScore, psnr
from ids3d.models.priors.protocol import Prior, editing_size
from ids3d.progress import Progress
from ids3d.provenance import record
from ids3d.systems.divergence import finite_views
from ids3d.systems.edit_images.latents import EditImages
from ids3d.systems.evaluate.held_out import TABLETOP_CLIP
from ids3d.systems.image_overview import show_image_run
from ids3d.systems.prompts import task_prompts, warn_of_foreign_images
from ids3d.systems.report import report_images
from ids3d.systems.stopping import GracefulStop
from ids3d.systems.storage import Figures, fingerprint, memory_figures, read_figures, write_json, write_rows
from ids3d.systems.summary import show_results
from ids3d.tasks import EditTask, SourceImage
from ids3d.tracking import Row, Subject, Tracking

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedImage:
    """An image that has been read and brought to the size at which it is edited, and where its results go."""

    task: EditTask
    original: SourceImage
    image: Tensor  # (3, H, W)
    source: str
    target: str
    folder: Path
    key: str


@dataclass
class Failures:
    """What could not be edited, and why."""

    lines: list[str] = field(default_factory=list)
    kind: type[UserError] = RunFailed  # if all are of that kind

    def add(self, task: EditTask, error: UserError) -> None:
        log.warning("%s: not edited: %s", task.name, error)
        self.lines.append(f"{task.name} ({error})")
        self.kind = RunFailed if isinstance(error, RunFailed) and self.kind is RunFailed else UserError


class ImageRun:
    """One job: its images, prior and method. What can be wrong with the config is found when this is made."""

    def __init__(self, job: ImageJob, stop: GracefulStop) -> None:
        job.check()
        self.job, self.stop, self.device = job, stop, pick_device(job.device)
        self.prior: Prior = job.prior.build().to(self.device)
        self.tasks: list[EditTask] = job.data.build().tasks(self.prior.image_size)
        self.system: EditImages = job.edit.build(self.prior, job.guidance.build(self.prior), job.seed)
        self.cfg = self.system.cfg
        self.failures = Failures()
        clip = job.evaluate.clip
        self.clip = (
            None if clip is None else ClipScore(TABLETOP_CLIP if clip == "tabletop" else clip).to(self.device)
        )

    @property
    def subject(self) -> Subject:
        """What the job is about; its prompts, where all images have the same."""
        prompts = (
            {task_prompts(self.job.prompt, task) for task in self.tasks} if len(self.tasks) < 2 else set()
        )
        return Subject(self.tasks[0].name if len(self.tasks) == 1 else "", prompts.pop() if prompts else None)

    def prepared(self) -> Iterable[PreparedImage]:
        """The images that are still to be edited, read one after the other; what is wrong with one is noted."""
        for task in self.tasks:
            try:
                made = self._prepare(task)
            except UserError as error:
                if len(self.tasks) == 1:
                    raise
                self.failures.add(task, error)
                continue
            if read_result(made.folder).get("settings") == made.key:
                log.info("%s: edited already, in %s", task.name, made.folder)
                continue
            yield made

    def _prepare(self, task: EditTask) -> PreparedImage:
        source, target = task_prompts(self.job.prompt, task)
        original = task.read()
        height, width = original.rgb.shape[:2]
        size = editing_size(height, width, self.prior)
        for note in original.notes:
            log.info("%s: %s", task.name, note)
        if size != (height, width):
            log.info("%s: %dx%d brought to %dx%d for the prior", task.name, width, height, size[1], size[0])
        image = resize(original.rgb, size).permute(2, 0, 1)
        settings = self.job.to_mapping()
        shaping = {key: settings[key] for key in ("prior", "guidance", "seed")}
        loop = {key: settings["edit"][key] for key in ("steps", "lr")}
        pixels = (image * 65535).round().int().flatten().tolist()
        key = fingerprint(
            {**shaping, **loop, "prompts": [source, target], "image": fingerprint({"pixels": pixels})}
        )
        return PreparedImage(task, original, image, source, target, self.job.folder / task.name, key)

    def edit(self, batch: Sequence[PreparedImage], tracking: Tracking) -> None:
        """Edit images of one size and write their results."""
        start = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            source = self.prior.embed([item.source for item in batch])
            target = self.prior.embed([item.target for item in batch])
        for text in dict.fromkeys(str(warning.message) for warning in caught):
            log.warning("%s", text)
        images = torch.stack([item.image for item in batch]).to(self.device)
        label = batch[0].task.name if len(batch) == 1 else f"{batch[0].task.name} and {len(batch) - 1} more"
        if len(self.tasks) > 1:
            label += f" (image {self.tasks.index(batch[-1].task) + 1} of {len(self.tasks)})"
        bar, shown, percent = Progress(label, total=100, unit="%"), list[Tensor](), 0

        def show(z: Tensor, done: float, figures: dict[str, float]) -> None:
            self.stop.check("stopped; finished images are saved, and the same command does the others")
            nonlocal percent
            while percent < int(100 * done + 1e-9):
                percent += 1
                bar.advance(f"grad_rms {figures['grad_rms']:.3g}" if "grad_rms" in figures else "")
            if len(shown) < round(done * self.job.evaluate.strip):
                shown.append(self.prior.decode(z).detach().cpu())

        with torch.no_grad():
            z = self.system.edit(images, source, target, [item.task.name for item in batch], show)
            edited = self.prior.decode(z.latents).cpu()
        bar.close()
        seconds = (time.monotonic() - start) / len(batch)
        for i, item in enumerate(batch):
            if z.given_up[i] or not finite_views(edited[i : i + 1]):
                self.failures.add(
                    item.task, RunFailed("its numbers do not stay finite, at a lower rate neither")
                )
                continue
            took: Figures = {"edit/skipped_steps": z.skipped[i], "time/seconds": seconds}
            self._write(item, edited[i], [images[i] for images in shown], took, tracking)

    def _write(
        self, item: PreparedImage, edited: Tensor, shown: Sequence[Tensor], took: Figures, tracking: Tracking
    ) -> None:
        size = (edited.shape[1], edited.shape[2])
        before, after = item.image.permute(1, 2, 0), edited.permute(1, 2, 0)
        truth = None if item.original.truth is None else resize(item.original.truth, size)
        images = {"source": before, "edited": after, "difference": difference(before, after)}
        if truth is not None:
            images["truth"] = truth
        (item.folder / "result.json").unlink(missing_ok=True)  # it speaks of the images that are replaced now
        save_image(item.folder / "source.png", before)
        save_image(item.folder / "edited.png", after)
        if truth is not None:
            save_image(item.folder / "true_edit.png", truth)
        shown_together = panel(images)
        save_image(item.folder / "comparison.png", shown_together)
        if shown:
            on_the_way = {f"{(i + 1) / len(shown):.0%}": p.permute(1, 2, 0) for i, p in enumerate(shown)}
            save_image(item.folder / "strip.png", panel({"source": before, **on_the_way}))
        tracking.log_panel(f"images/{item.task.name}", shown_together, 0)
        figures = self._measure(item, before, after, truth)
        content: Figures = {
            "settings": item.key,
            "source": item.source,
            "target": item.target,
            **figures,
            **took,
        }
        write_json(item.folder / "result.json", content)

    def _measure(
        self, item: PreparedImage, before: Tensor, after: Tensor, truth: Tensor | None
    ) -> dict[str, float]:
        """The edit's PSNR to the source, and of both: to the truth, inside and outside its mask, and the CLIP score."""
        figures = {"edit/psnr_to_source": psnr(after, before)}
        for name, image in (("source", before), ("edit", after)):
            if truth is not None:
                figures[f"{name}/psnr"] = psnr(image, truth)
            if truth is not None and item.original.mask is not None:
                mask = resize(item.original.mask[..., None].float(), (len(truth), truth.shape[1]))[..., 0] > 0
                figures[f"{name}/psnr_inside"] = psnr(image, truth, mask)
                figures[f"{name}/psnr_outside"] = psnr(image, truth, ~mask)
            if self.clip is not None:
                score = self.clip(image.permute(2, 0, 1)[None].to(self.device), [item.target])
                figures[f"{name}/clip_score"] = float(score)
        return figures


def run(job: ImageJob) -> None:
    """Edit all images of the job that are not edited yet, into `<folder>/<image>/`, and write results.csv.

    Raises:
        UserError: the config is wrong; or some images could not be edited (the others are).
        RunFailed: some images' numbers did not stay finite (the others are edited).
        Interrupted: Ctrl-C; finished images are saved.
    """
    start = time.monotonic()
    with GracefulStop() as stop:
        work = ImageRun(job, stop)
        warn_of_foreign_images(work.prior, job.prompt, work.tasks)
        with locked(job.folder):
            tracking = Tracking(job, job.folder, work.subject).open(resume=True)
            record(job)
            try:
                try:
                    for number, batch in enumerate(batches(work.prepared(), work.cfg.batch_size)):
                        if number == 0 and log.isEnabledFor(logging.INFO):
                            show_image_run(work, batch)
                        work.edit(batch, tracking)
                finally:
                    results = write_table(job.folder, work.tasks)
                means = means_of(results)
                totals = {"images": float(len(results)), "time/total_seconds": time.monotonic() - start}
                figures: Figures = {**means, **totals, **memory_figures(work.device)}
                report = report_images(job, figures, results)
                tracking.log_table("images/results", table_rows(job.folder, results), 0)
                tracking.log_summary(figures, 0)
                tracking.keep("report", "report", report)
                write_json(job.folder / "metrics.json", figures)
            finally:
                tracking.close()
    show_results(job, {**figures})
    if work.failures.lines:
        failed = len(work.failures.lines)
        raise work.failures.kind(
            f"{failed} of {len(work.tasks)} images not edited: {'; '.join(work.failures.lines)}"
        )


def means_of(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of each figure over the images that have it."""
    return {
        name: sum(values) / len(values)
        for name in dict.fromkeys(key for row in results for key in row if "/" in key)
        if (values := [value for row in results if isinstance(value := row.get(name), int | float)])
    }


def table_rows(folder: Path, results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The table of the results with their pictures, whenever they were edited."""
    rows = []
    for result in results:
        file = folder / str(result["name"]) / "comparison.png"
        images = {"comparison": torch.from_numpy(iio.imread(file)).float() / 255} if file.exists() else {}
        cells = {k: v for k, v in result.items() if k != "name" and v is not None}
        rows.append(Row(str(result["name"]), images, cells))
    return rows


def batches(items: Iterable[PreparedImage], size: int) -> Iterable[list[PreparedImage]]:
    """Groups of up to `size` images that are equally large, in the order in which groups are full."""
    waiting: dict[tuple[int, ...], list[PreparedImage]] = {}
    for item in items:
        group = waiting.setdefault(tuple(item.image.shape), [])
        group.append(item)
        if len(group) == size:
            yield waiting.pop(tuple(item.image.shape))
    yield from waiting.values()


def write_table(folder: Path, tasks: Sequence[EditTask]) -> list[dict[str, float | str | None]]:
    """results.csv: a row for each of the images that is edited, whenever that was; the rows."""
    rows: list[dict[str, float | str | None]] = []
    for task in tasks:
        found = read_result(folder / task.name)
        if found:
            rows.append({"name": task.name, **{k: v for k, v in found.items() if k != "settings"}})
    if rows:
        write_rows(folder / "results.csv", rows)
    return rows


def read_result(folder: Path) -> dict[str, Any]:
    """What an edited image's result.json holds; {} where there is none, or a damaged one, which is said."""
    file = folder / "result.json"
    if not file.exists():
        return {}
    try:
        return read_figures(file, "the image is edited again")
    except UserError as error:
        log.warning("%s", error)
        return {}
