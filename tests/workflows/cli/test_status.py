"""Where the stages of a run stand, from ledgers that hold more than is asked for now."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.workflows.made_labelled import settings_of
from tests.workflows.plan.test_scopes import PLAN
from workflows.asking.registry import STUDIES
from workflows.cli.status import StageStatus, heartbeat_line, stage_statuses, status, status_table
from workflows.pipeline import STAGES
from workflows.plan.expected import Made, find_lost
from workflows.plan.scope import Scope
from workflows.plan.scopes import write_scopes
from workflows.runtime.progress import Heartbeat
from workflows.storage.ledger import Ledger, LedgerContent
from workflows.storage.run_folder import RunFolder


def class_scope(label: int) -> Scope:
    return Scope(f"class-{label}", (label,), False, (label,))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Classes 3 and 8 were fitted in three layers and counted; now class 5 is asked for."""
    folder = RunFolder.create_or_open(tmp_path / "run", settings_of())
    for stage in ("fit", "count"):
        ledger = folder.ledger(stage)
        ledger.begin("same", total=6, asked="3, 8")
        for label in (3, 8):
            for layer in ("add1", "add2", "add3"):
                ledger.record(f"class-{label}/{layer}")
        ledger.end()
    write_scopes(folder, [class_scope(5)])
    return folder


def status_of(folder: RunFolder, stage: str) -> StageStatus:
    return next(status for status in stage_statuses(folder.root) if status.name == stage)


@pytest.mark.parametrize("stage", ["fit", "count"])
def test_items_of_other_scopes_are_not_done_ones(folder: RunFolder, stage: str) -> None:
    ledger = folder.ledger(stage)
    ledger.begin("same", total=3, asked="5")
    found = status_of(folder, stage)
    assert (found.state, found.done, found.left) == ("stopped", 0, 3)
    ledger.record("class-5/add1")
    found = status_of(folder, stage)
    assert (found.done, found.left) == (1, 2)
    for layer in ("add2", "add3"):
        ledger.record(f"class-5/{layer}")
    ledger.end()
    found = status_of(folder, stage)
    assert (found.state, found.done, found.left) == ("done", 3, 0)


def test_a_stage_that_is_done_has_no_failure(folder: RunFolder) -> None:
    """That of a shard which only a scope from before wanted: a stage with a failure of its own does not end."""
    ledger = folder.ledger("words")
    ledger.begin("same", total=2, asked="3")
    ledger.record(0)
    ledger.record_failure(1, "its picture kills the actor")
    found = status_of(folder, "words")
    assert (found.state, found.done, found.failed, found.left) == ("failed", 1, 1, 0)
    ledger.begin("same", total=1, asked="5")
    ledger.end()
    found = status_of(folder, "words")
    assert (found.state, found.done, found.failed, found.left) == ("done", 1, 0, 0)


def test_without_scopes_all_items_count(folder: RunFolder) -> None:
    """A hidden Markov model, whose items are its restarts."""
    (folder.root / "scopes.json").unlink()
    folder.ledger("fit").begin("another", total=3)
    folder.ledger("fit").record("restart 0")
    found = status_of(folder, "fit")
    assert (found.done, found.left) == (1, 2)


def test_the_status_of_a_run_adds_up() -> None:
    stages = [
        StageStatus("index", "done", 1, 0, 0, 1.24, 812_000),
        StageStatus("extract", "failed", 38, 2, 3, 95.0, 3_200_000_000),
        StageStatus("fit", "waiting", 0, 0, None, 0.0, 0),
    ]
    stream = StringIO()
    Console(file=stream, width=80).print(status_table(stages))
    lines = stream.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 80
    cells = [line.split() for line in lines]
    assert ["index", "done", "1", "0", "0", "1.2", "s", "812", "kB"] in cells
    assert ["extract", "failed", "38", "2", "3", "1", "min", "35", "s", "3.2", "GB"] in cells
    assert ["fit", "waiting", "0", "0", "?", "–", "–"] in cells
    assert ["total", "39", "2", "3", "1", "min", "36", "s", "3.2", "GB"] in cells


def test_status_as_json(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    status(folder.root, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert {study["state"] for study in told["studies"]} == {"not asked"}
    assert [study["name"] for study in told["studies"]] == list(STUDIES)
    assert told["run"] == str(folder.root)
    assert [stage["name"] for stage in told["stages"]] == list(STAGES)
    fit = told["stages"][list(STAGES).index("fit")]
    assert (fit["state"], fit["done"], fit["left"]) == ("done", 6, 0)


def test_a_profile_adds_up_over_items(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = folder.ledger("extract")
    ledger.begin("same", total=3)
    ledger.record(0, seconds=4.0, profile={"decode": 3.0, "forward": 2.0, "write": 0.5, "wait": 0.25, "cpu": 5.0})
    ledger.record(1, seconds=2.0, profile={"forward": 1.0, "cpu": 1.0})
    ledger.record(2, seconds=9.0)  # of an earlier version
    (extract,) = [stage for stage in stage_statuses(folder.root) if stage.profile]
    expected = {"actors": 6.0, "decode": 3.0, "forward": 3.0, "write": 0.5, "wait": 0.25, "compute": 2.25, "cpu": 6.0}
    assert (extract.name, extract.profile) == ("extract", expected)
    status(folder.root, profile=True)
    cells = [line.split() for line in capsys.readouterr().out.splitlines()]
    head = next(line for line in cells if line[-1:] == ["processor"])
    assert head == ["stage", "actors", "read", "decode", "forward", "write", "wait", "compute", "processor"]
    row = ["extract", "6.0", "s", "–", "3.0", "s", "3.0", "s", "0.5", "s", "0.2", "s", "2.2", "s", "6.0", "s"]
    assert row in cells


def test_what_is_at_work_is_told_with_its_age(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with folder.lock():
        folder.beat(Heartbeat(2, 1, 7, "shard 3 on node west", 412.0))
        folder.beat(Heartbeat(2, 1, 6, "shard 4 on node west", 1.0))  # too soon to be written
        assert (folder.heartbeat() or {})["waiting"] == 7
        status(folder.root)
        told = capsys.readouterr().out
        assert "2 actors at work, 1 starting, 7 items wait; longest: shard 3 on node west for 6 min 52 s; told" in told
        status(folder.root, as_json=True)
        assert json.loads(capsys.readouterr().out)["heartbeat"]["oldest"] == "shard 3 on node west"
    assert folder.heartbeat() is None, "who has ended does nothing"
    assert not [path for path in folder.root.iterdir() if path.name.startswith(".heartbeat")]


def test_an_old_heartbeat_is_marked() -> None:
    told = {"actors": 1, "starting": 0, "waiting": 0, "oldest": "", "time": 100.0}
    assert heartbeat_line(told, 101.0).spans == []
    assert [span.style for span in heartbeat_line(told, 400.0).spans] == ["bold red"]


def test_a_folder_that_is_done_is_as_large_as_its_ledger_says(folder: RunFolder) -> None:
    """A walk over the files of a thousand scopes takes seconds; only a stage at work has one."""
    (folder.root / "mixtures").mkdir()
    (folder.root / "mixtures" / "one.npz").write_bytes(b"12345")
    (folder.root / "history.parquet").write_bytes(b"123")
    assert status_of(folder, "fit").size == 5 + 3 + folder.scopes_file.stat().st_size
    folder.ledger("fit").end(bytes={"mixtures": 77, "history.parquet": 55})
    (folder.root / "mixtures" / "two.npz").write_bytes(b"12345")
    assert status_of(folder, "fit").size == 77 + 3 + folder.scopes_file.stat().st_size
    folder.ledger("fit").begin("same", total=9)
    assert status_of(folder, "fit").size == 10 + 3 + folder.scopes_file.stat().st_size


def test_ledgers_are_held_against_the_folder_in_linear_time(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each figure used to read the ledger of the fits anew."""
    write_scopes(folder, [class_scope(label) for label in range(50)])
    items = [f"class-{label}/fit" for label in range(50)]
    read: list[Path] = []

    def content(ledger: Ledger) -> LedgerContent:
        read.append(ledger.path)
        return found(ledger)

    found = Ledger.content
    monkeypatch.setattr(Ledger, "content", content)
    made = Made(folder, folder.settings(), PLAN, LedgerContent("same", 50, True, items={item: {} for item in items}))
    lost = find_lost("draw", made)
    assert lost.items == set(items)
    assert len(lost.paths) == 100
    assert len(read) == 1
