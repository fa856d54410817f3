"""What a run shows while it works: on a terminal one display, elsewhere lines."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from workflows.runtime import progress
from workflows.runtime.progress import Rates, StageBar

REDRAWN_S = 0.4
"""rich draws ten times a second."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, moved by the test."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_a_stage_at_work_shows_items_rates_and_what_it_is_at(clock: list[float]) -> None:
    out = io.StringIO()
    bar = StageBar(Console(file=out, force_terminal=True, width=150, _environ={}))
    with bar.run(2):
        with bar.stage("extract") as stage:
            stage.start(10, done=4)
            clock[0] += 10
            stage.advance(images=500, columns=128_000)
            stage.note("a note")
            time.sleep(REDRAWN_S)
            clock[0] += 10
            bar.warn("something")
        with bar.stage("fit") as stage:
            stage.start(1)
            clock[0] += 2
            stage.at_work("layer", 0.5, columns=3)
            time.sleep(REDRAWN_S)
    seen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    assert re.search(r"run .* 0/2 .*stages", seen)
    assert "5/10" in seen
    assert "50 images/s, 12,800 columns/s  a note" in seen
    assert "done extract       5/10    20.0 s  25 images/s, 6,400 columns/s  a note" in seen
    assert "warning something" in seen
    assert re.search(r"run .* 1/2 ", seen)
    assert "1.5 columns/s" in seen


def test_without_a_terminal_a_line_a_minute_is_told(clock: list[float]) -> None:
    out = io.StringIO()
    with StageBar(Console(file=out, width=150)).stage("extract") as stage:
        stage.start(20, done=8)
        for _ in range(4):
            clock[0] += 31
            stage.advance(images=62)
    told = out.getvalue().splitlines()
    assert told[0] == "at work extract 10/20, 0:05:10 left  2 images/s"
    assert told[1] == "at work extract 12/20, 0:04:08 left  2 images/s"
    assert told[2] == "done extract      12/20   124.0 s  2 images/s"
    assert len(told) == 3


def test_rates_are_rounded_to_what_they_tell() -> None:
    assert Rates(images=81_234, columns=20_812_345, begun=0.0).words(10.0) == "8,120 images/s, 2,080,000 columns/s"
    assert Rates(begun=0.0).words(0.0) == ""
