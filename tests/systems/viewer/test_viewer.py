"""The viewer in a real browser: it shows the scene, is moved, holds and changes a run, and disturbs nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("viser", reason="the viewer's tests need viser: pip install -e '.[viewer]'")
pytest.importorskip("selenium", reason="the viewer's tests need selenium: pip install -e '.[dev]'")

from ids3d.experiment import SceneJob
from ids3d.systems.fields import load_field, save_field
from ids3d.systems.saved_run import load_run
from ids3d.systems.scene_phases import SceneRun
from ids3d.systems.scene_run import run
from ids3d.systems.viewer.following import Following, Live
from ids3d.systems.viewer.server import Address, Viewer
from ids3d.systems.viewer.stage import Stage
from tests.systems.viewer.browser import CHROMIUM, DRIVER, Browser, until
from tests.systems.viewer.test_stage import fields, same

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="the viewer's tests need chromium and chromedriver: apt-get install chromium chromium-driver",
    ),
]

Tiny = Callable[..., SceneJob]
Open = Callable[[str], Browser]
ADDRESS = Address(port=18_200)


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Open]:
    """browse(url): a browser with that page."""
    with ExitStack() as stack:

        def opened(url: str) -> Browser:
            browser = Browser(url, tmp_path / f"profile-{time.monotonic_ns()}")
            stack.callback(browser.close)
            return browser

        yield opened


@pytest.fixture(scope="module")
def finished(tiny_in: Callable[..., SceneJob], tmp_path_factory: pytest.TempPathFactory) -> SceneJob:
    """A run whose edit can be seen at once: its colours are darkened."""
    job = tiny_in(tmp_path_factory.mktemp("finished"), "reconstruct.steps=40", "edit.steps=1")
    run(job)
    path = job.folder / "checkpoints" / "last.safetensors"
    _, about = load_field(path, "", torch.device("cpu"))
    renderer = load_run(job.folder).edited.renderer
    renderer.geometry.raw_appearance.data -= 3
    save_field(path, renderer, about)
    return job


def test_it_shows_a_finished_run(finished: SceneJob, browse: Open, tmp_path: Path) -> None:
    saved = load_run(finished.folder)
    stage = Stage(torch.device("cpu"), is_live=False)
    stage.open(saved.source, saved.edited.renderer)
    with Viewer(ADDRESS, saved.scene, finished.folder, stage) as viewer:
        first = browse(viewer.url)
        edited = first.scene()
        first.choose("Field", "source")
        source = first.other_than(edited, "the source")
        first.choose("Channel", "depth")
        depth = first.other_than(source, "the depth")
        first.drag(120, 0)
        first.other_than(depth, "the picture from elsewhere")
        # A second browser has a display of its own; closing it disturbs nothing.
        second = browse(viewer.url)
        second.scene()
        until(lambda: stage.onlookers == 2, "two browsers")
        kept = next(iter(viewer.panels.values()))
        assert kept.onlooker.display.channel == "depth"
        assert [p.onlooker.display.channel for p in viewer.panels.values()] == ["depth", "rgb"]
        second.close()
        until(lambda: stage.onlookers == 1, "one browser")
        before = first.picture()
        first.choose("Channel", "rgb")
        first.other_than(before, "the colours again")
        until(lambda: kept.onlooker.drawn == kept.onlooker.limit, "the finest picture")
        kept.jump(0)
        pose = saved.scene.train.cameras.c2w[0]

        def is_there() -> bool:
            viewpoint = kept.onlooker.viewpoint
            return viewpoint is not None and torch.allclose(viewpoint.c2w, pose, atol=1e-2)

        until(is_there, "the camera of the first view")


def test_a_path_is_saved_and_filmed(finished: SceneJob, browse: Open) -> None:
    saved = load_run(finished.folder)
    stage = Stage(torch.device("cpu"), is_live=False)
    stage.open(saved.source, saved.edited.renderer)
    with Viewer(ADDRESS, saved.scene, finished.folder, stage) as viewer:
        browse(viewer.url)
        panel = until(lambda: list(viewer.panels.values()), "a browser")[0]
        until(lambda: panel.onlooker.viewpoint is not None, "where it looks from")
        panel.onlooker.finest, panel.path.seconds.value = 32, 0.2
        for view in (0, 4):
            panel.jump(view)
            time.sleep(1)
            panel.path._add(None)
        panel.path._film(None)
        film = finished.folder / "camera_paths" / "path.mp4"
        until(film.exists, "the film")
        assert len(json.loads(film.with_suffix(".json").read_text())["keyframes"]) == 2
        panel.path.name.value = "../outside"
        with pytest.raises(ValueError, match="name"):
            panel.path._save(None)


def test_it_follows_a_run_that_another_process_is_at(finished: SceneJob) -> None:
    from ids3d.systems.scene_edit_phases import SceneEditRun
    from ids3d.systems.stopping import GracefulStop

    stage = Stage(torch.device("cpu"), is_live=False)
    with GracefulStop() as stop:
        following = Following(SceneEditRun(finished, stop), stage)
    last = finished.folder / "checkpoints" / "last.safetensors"
    away = last.rename(last.with_suffix(".away"))
    try:
        assert following.look() and stage.take()
        assert stage.fields is not None and stage.fields.edited is None
        assert following.look() and not stage.take()  # nothing new
    finally:
        away.rename(last)
    assert not following.look() and stage.take()
    assert stage.fields.edited is not None and stage.status.phase == "finished"


def test_a_run_is_watched_held_and_changed(tiny: Tiny, browse: Open) -> None:
    watched = tiny("edit.steps=4000")  # never done before it is stopped, however slow the browsers are
    live = Live(ADDRESS)
    seen: dict[str, Any] = {}
    failed: list[BaseException] = []

    def use(work: SceneRun, stage: Stage) -> None:
        try:
            assert live.viewer is not None
            until(lambda: stage.status.phase == "editing" and stage.status.step >= 1, "the edit")
            stage.pause(True)  # the browsers start slowly: nothing is missed meanwhile
            first, second = browse(live.viewer.url), browse(live.viewer.url)
            first.press("Go on")
            start = stage.status.step
            until(lambda: stage.status.step >= start + 2, "the step advancing")
            until(lambda: f"step {start} of" not in first.text(), "the step advancing on the page")
            first.press("Pause")
            until(lambda: "paused" in first.text() and "paused" in second.text(), "the pause on both pages")
            time.sleep(2)  # for the step that was under way
            held = stage.status.step
            time.sleep(3)
            assert stage.status.step == held
            until(lambda: f"step {held} of 4000" in second.text(), "the step at which it is held")
            second.close()
            first.type("Target", "a <b>green</b> cube")
            target = live.viewer.run_panel.target
            until(lambda: target.value == "a <b>green</b> cube", "the text that was typed")
            first.press("Change from here on")
            first.press("Go on")
            until(lambda: stage.status.step >= held + 2, "the step after the pause")
            until(lambda: "from step" in first.text(), "the change on the page")
            assert "a <b>green</b> cube" in first.text(), "shown as markup"
            seen["changes"] = (watched.folder / "changes.jsonl").read_text()
            seen["held"] = held
        except BaseException as error:
            failed.append(error)
        finally:
            stage.pause(False)
            work.stop.exit_code = 130

    def opened(work: SceneRun) -> Stage:
        stage = live.open(work)
        threading.Thread(target=use, args=(work, stage), daemon=True).start()
        return stage

    from ids3d.errors import Interrupted

    try:
        with pytest.raises(Interrupted):
            run(watched, view=opened)
    finally:
        live.close()
    if failed:
        raise failed[0]
    change = json.loads(seen["changes"])
    assert change["key"] == "prompt.target" and change["value"] == "a <b>green</b> cube"
    assert change["step"] == seen["held"]


def test_an_edit_with_an_open_browser_ends_in_the_same_bits(tiny: Tiny, browse: Open) -> None:
    alone, watched = tiny("tag=alone", "edit.steps=6"), tiny("tag=watched", "edit.steps=6")
    run(alone)
    live = Live(ADDRESS)

    def opened(work: SceneRun) -> Stage:
        stage = live.open(work)
        assert live.viewer is not None
        browser = browse(live.viewer.url)
        until(lambda: stage.onlookers == 1, "the browser")
        del browser
        return stage

    try:
        run(watched, view=opened)
        assert live.viewer is not None and live.viewer.stage.onlookers == 1
    finally:
        live.close()
    assert same(fields(watched), fields(alone))
