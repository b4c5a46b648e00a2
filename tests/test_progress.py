"""Progress in a log: few lines, each with a rate and a remaining time."""

from __future__ import annotations

import pytest

from ids3d.progress import Progress, track


def test_a_log_is_not_flooded(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(500), "renders")) == list(range(500))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("renders: 500/500 [") and "left" in lines[0]


def test_lines_come_by_the_clock(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("ids3d.progress.time.monotonic", lambda: clock[0])
    progress = Progress("editing", total=50, done=20, interval=10)
    for _ in range(30):
        clock[0] += 1
        progress.advance("loss 0.5")
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == "editing: 30/50 [00:10 so far, 00:20 left,  1.00step/s, loss 0.5]"


def test_what_is_quick_goes_without_a_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("ids3d.progress.time.monotonic", lambda: clock[0])
    for seconds, lines in ((0.1, 0), (1.0, 1)):
        for _ in track(range(4), "reading", delay=3):
            clock[0] += seconds
        assert len(capsys.readouterr().err.splitlines()) == lines


def test_track_wants_a_total() -> None:
    with pytest.raises(ValueError, match="total"):
        list(track(iter([1]), "x"))
