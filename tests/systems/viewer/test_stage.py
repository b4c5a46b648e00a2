"""A run that is watched: what is shown is a copy, what is asked for is done between two steps, and recorded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file

from ids3d.errors import UserError
from ids3d.experiment import SceneJob
from ids3d.systems.edit_scene.changes import REGION, SCALE, TARGET, Change, ChangeRecord, Steering
from ids3d.systems.edit_scene.pull_back import EditScene
from ids3d.systems.scene_phases import SceneRun
from ids3d.systems.scene_run import run
from ids3d.systems.viewer.display import Display, Viewpoint, draw
from ids3d.systems.viewer.looking_on import LookingOn
from ids3d.systems.viewer.painter import Onlooker, Painter
from ids3d.systems.viewer.stage import Stage, Status

Tiny = Callable[..., SceneJob]
VIEWPOINT = Viewpoint(torch.cat([torch.eye(3), torch.tensor([[0.0], [0.0], [1.0]])], dim=1), 45.0, 32, 24)


def fields(job: SceneJob) -> dict[str, torch.Tensor]:
    return load_file(job.folder / "checkpoints" / "last.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Audience:
    """Looks on from a thread of its own, as a viewer does: every channel and layout, as often as it can."""

    def __init__(self) -> None:
        self.pictures: list[Any] = []
        self.statuses: list[Status] = []
        self._over = threading.Event()

    def open(self, work: SceneRun) -> Stage:
        self.stage = Stage(work.device, is_live=True)
        self.stage.onlookers = 1
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self.stage

    def _look(self) -> None:
        painter, onlooker = Painter(self.stage.device), Onlooker(self.pictures.append)
        displays = [Display("edited"), Display("wipe", "depth"), Display("source", "difference")]
        while not self._over.is_set():
            self.stage.take()
            self.statuses.append(self.stage.status)
            if self.stage.fields is None:
                time.sleep(0.01)
                continue
            onlooker.look(VIEWPOINT, displays[len(self.pictures) % 3])
            painter.paint(self.stage.fields, [onlooker], lambda: True)

    def leave(self) -> None:
        self._over.set()
        self._thread.join()


def test_a_run_that_is_watched_ends_in_the_same_bits(tiny: Tiny) -> None:
    alone, watched = tiny("tag=alone"), tiny("tag=watched")
    run(alone)
    audience = Audience()
    # A reconstruction of its own, so that both phases are watched.
    elsewhere = alone.folder.parent.parent / "reconstructions"
    elsewhere.rename(elsewhere.with_name("kept"))
    run(watched, view=audience.open)
    audience.leave()
    assert same(fields(watched), fields(alone))
    assert len(audience.pictures) > 3
    phases = [status.phase for status in audience.statuses]
    assert {"reconstructing", "editing"} <= set(phases)
    assert any("edit/grad_rms" in status.figures for status in audience.statuses)


def at_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Call `act` with the number of each step of an edit, before what looks on does anything there."""
    before = LookingOn.on_train_batch_start

    def start(self: LookingOn, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        if isinstance(module, EditScene):
            act(trainer.global_step)
        before(self, trainer, module, *args)

    monkeypatch.setattr(LookingOn, "on_train_batch_start", start)


def open_stage(stages: list[Stage]) -> Callable[[SceneRun], Stage]:
    def opened(work: SceneRun) -> Stage:
        stages.append(Stage(work.device, is_live=True))
        return stages[-1]

    return opened


def test_changes_take_effect_are_recorded_and_can_be_repeated(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, changed, again = tiny("tag=plain"), tiny("tag=changed"), tiny("tag=again")
    run(plain)
    stages: list[Stage] = []

    def act(step: int) -> None:
        if step == 1:
            stages[0].wish(TARGET, "a green cube")
            stages[0].wish(SCALE, 3.0)
        if step == 2:
            stages[0].wish(REGION, "nowhere")  # no such folder
            stages[0].wish(SCALE, float("nan"))
            stages[0].wish(REGION, "difference")

    with monkeypatch.context() as patched:
        at_step(patched, act)
        run(changed, view=open_stage(stages))
    lines = (changed.folder / "changes.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "key": TARGET, "value": "a green cube"},
        {"step": 1, "key": SCALE, "value": 3.0},
        {"step": 2, "key": REGION, "value": "difference"},
    ]
    assert not same(fields(changed), fields(plain))
    assert "a green cube" in (changed.folder / "report.html").read_text()
    # From the record alone, without a viewer.
    again.folder.mkdir(parents=True)
    ChangeRecord(again.folder).path.write_text("\n".join(lines) + "\n")
    run(again)
    assert same(fields(again), fields(changed))
    first = tiny("tag=first")
    first.folder.mkdir(parents=True)
    ChangeRecord(first.folder).path.write_text(lines[0] + "\n")
    run(first)  # each change counts
    assert not same(fields(first), fields(changed)) and not same(fields(first), fields(plain))


def test_a_pause_holds_the_run_and_going_on_ends_in_the_same_bits(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, held = tiny("tag=alone"), tiny("tag=held")
    run(alone)
    stages: list[Stage] = []
    steps: list[int] = []

    def go_on() -> None:
        time.sleep(0.5)
        steps.append(stages[0].status.step)
        assert stages[0].status.paused
        stages[0].pause(False)

    def act(step: int) -> None:
        if step == 2:
            stages[0].pause(True)
            threading.Thread(target=go_on).start()

    at_step(monkeypatch, act)
    run(held, view=open_stage(stages))
    assert steps == [2] and same(fields(held), fields(alone))


def test_a_stage_shows_copies(tiny: Tiny) -> None:
    job = tiny("stage=reconstruct")
    works: list[SceneRun] = []
    run(job, view=lambda work: works.append(work) or Stage(work.device, True))  # type: ignore[func-returns-value]
    found = works[0].load_reconstruction()
    assert found is not None
    stage, renderer = Stage(torch.device("cpu"), is_live=False), found.renderer
    stage.open(renderer, None)
    assert stage.take() and not stage.take()

    def shown() -> torch.Tensor:
        assert stage.fields is not None
        camera = works[0].scene.test.cameras[0]
        return draw(Display(), stage.fields, camera, lambda r, c: r.render(c))

    before = shown()
    with torch.no_grad():
        for parameter in renderer.parameter_groups().appearance:
            parameter += 1
    assert torch.equal(shown(), before)
    stage.publish(renderer)
    assert not stage.take()  # nobody looks on
    stage.onlookers = 1
    stage.publish(renderer)
    assert torch.equal(shown(), before)  # until it is taken
    assert stage.take() and not torch.equal(shown(), before)


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1, "key": "prompt.source", "value": "x"}',
        '{"step": -1, "key": "prompt.target", "value": "x"}',
        '{"step": 1, "key": "prompt.target", "value": " "}',
        '{"step": 1, "key": "guidance.guidance_scale", "value": NaN}',
        '{"step": 1, "key": "guidance.guidance_scale", "value": "7"}',
        '{"step": 1, "key": "prompt.target"}',
        "[]",
        "nonsense",
    ],
)
def test_a_damaged_record_is_refused_before_anything_is_done(tiny: Tiny, line: str) -> None:
    job = tiny()
    job.folder.mkdir(parents=True)
    good = '{"step": 0, "key": "prompt.target", "value": "a blue cube"}'
    (job.folder / "changes.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(UserError, match=r"changes\.jsonl, line 2"):
        run(job)


def test_a_line_that_was_cut_short_was_never_acted_on(tmp_path: Path) -> None:
    record = ChangeRecord(tmp_path)
    record.append(Change(3, TARGET, "ein grüner Würfel"))
    with record.path.open("a") as file:
        file.write('{"step": 4, "ke')
    assert record.read() == [Change(3, TARGET, "ein grüner Würfel")]
    record.append(Change(5, SCALE, 2.0))
    assert record.read() == [Change(3, TARGET, "ein grüner Würfel"), Change(5, SCALE, 2.0)]
    assert (
        record.target(5, "otherwise") == "ein grüner Würfel" and record.target(3, "otherwise") == "otherwise"
    )


def test_what_cannot_be_recorded_is_not_done(tmp_path: Path) -> None:
    steering = Steering(ChangeRecord(tmp_path / "gone"), None, {TARGET: "a"})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="cannot be changed"):
        steering.change(pl.Trainer(logger=False, barebones=True), pl.LightningModule(), TARGET, "b")
    assert steering.values == {TARGET: "a"}
