"""The log of a run: one JSON line a record, with its time, host and process, bounded in size."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from workflows.storage.run_log import LOG_FILES, RunLog


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_record_has_its_time_host_and_process(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.tell("warning", words="ünusual\nwords", stage=None)
        log.tell("done", place="gpu-7:4711", item=3, path=tmp_path)
    driver, actor = lines(tmp_path / "log.jsonl")
    assert (driver["host"], driver["driver"]) == (socket.gethostname(), os.getpid())
    assert (driver["event"], driver["words"]) == ("warning", "ünusual\nwords")
    assert "stage" not in driver
    assert (actor["host"], actor["actor"], actor["item"], actor["path"]) == ("gpu-7", 4711, 3, str(tmp_path))
    told = datetime.fromisoformat(actor["time"])
    assert abs((datetime.now(UTC) - told).total_seconds()) < 60


def test_a_log_is_bounded_and_keeps_the_latest(tmp_path: Path) -> None:
    for begun in range(2):
        with RunLog(tmp_path, most_bytes=2000) as log:
            for number in range(100):
                log.tell("done", item=100 * begun + number)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(LOG_FILES)
    assert all((tmp_path / name).stat().st_size <= 2000 for name in LOG_FILES)
    kept = [record["item"] for name in reversed(LOG_FILES) for record in lines(tmp_path / name)]
    assert kept == list(range(kept[0], 200))
    assert len(kept) > 10


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path / "gone") as log:
        log.tell("done", item=1)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
