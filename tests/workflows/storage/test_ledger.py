from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workflows.errors import RunFolderError
from workflows.storage.ledger import Ledger


def ledger(folder: Path) -> Ledger:
    return Ledger(folder / "ledgers" / "extract.jsonl")


def test_items_come_back_with_their_fields_in_order(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    assert book.items() == {}
    assert not book.stage_done("a")
    book.begin("a", total=3)
    book.record(2, images=500, broken=np.array([4, 7]), mean=np.float32(0.5), path=tmp_path)
    book.record("layer1.add", images=np.int64(7))
    book.record(2, images=499)
    assert book.items() == {2: {"images": 499}, "layer1.add": {"images": 7}}
    content = book.content()
    assert (content.total, content.done, content.fingerprint) == (3, False, "a")


def test_other_wanted_items_keep_what_is_done_and_open_again(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.begin("a", total=1, asked="3")
    book.record("class-3/add1", words=5)
    book.end()
    assert book.stage_done("a", "3")
    assert not book.stage_done("a", "3,5")
    assert not book.stage_done("a")
    book.begin("a", total=2, asked="3,5")
    assert book.items() == {"class-3/add1": {"words": 5}}
    book.end()
    assert book.stage_done("a", "3,5")
    book.begin("b", total=2, asked="3,5")
    assert book.items() == {}


def test_numpy_fields_become_plain_ones(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.record(0, broken=np.array([4, 7]), mean=np.float32(0.5), path=tmp_path)
    assert book.items()[0] == {"broken": [4, 7], "mean": 0.5, "path": str(tmp_path)}
    with pytest.raises(TypeError, match="a ledger holds numbers, text, lists and dictionaries, not set"):
        book.record(1, wrong={1})
    assert list(book.items()) == [0]


def test_a_stage_is_done_for_the_inputs_it_ended_with(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.begin("a")
    book.record(0)
    book.end(images=3)
    assert book.stage_done("a")
    assert not book.stage_done("b")
    assert book.content().summary == {"images": 3}
    book.begin("a")
    assert not book.stage_done("a"), "begun again and not ended"
    assert book.items() == {0: {}}, "items of the same inputs stay"
    book.begin("b")
    assert book.items() == {}, "other inputs void the items"
    book.begin("a")
    assert book.items() == {}, "and they do not come back"


def test_failures_are_cleared_by_success(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.record(1)
    book.record_failure(1, "its worker process died")
    book.record_failure(2, "cannot read")
    assert book.content().failed == {1: "its worker process died", 2: "cannot read"}
    assert book.items() == {}
    book.record(1, tries=2)
    assert book.content().failed == {2: "cannot read"}
    assert book.items() == {1: {"tries": 2}}


def test_a_torn_last_line_is_repaired_at_every_length(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    book.record(0, note="ü" * 3)
    book.record(1, note="x" * 5000)
    whole = book.path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in [*range(0, first + 60), *range(len(whole) - 60, len(whole))]:
        book.path.write_bytes(whole[:length])
        kept = whole[:length].count(b"\n")
        assert list(book.items()) == list(range(kept)), length
        book.record(9)
        assert list(book.items()) == [*range(kept), 9], length


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    for item in range(3):
        book.record(item)
    lines = book.path.read_bytes().split(b"\n")
    book.path.write_bytes(b"\n".join([lines[0], lines[1][:7], *lines[2:]]))
    with pytest.raises(RunFolderError, match=r"line 2 of .*extract.jsonl.* is damaged: delete that file to redo"):
        book.items()


def test_seconds_leave_out_the_pause_between_drivers(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    marks = [("begin", 100.0), (0, 103.0), (1, 105.0), ("begin", 5000.0), (2, 5002.0), ("end", 5003.0)]
    lines = []
    for mark, time in marks:
        named = (
            {"mark": mark, "fingerprint": "a", "total": 3, "fields": {}}
            if isinstance(mark, str)
            else {"item": mark, "fields": {}}
        )
        lines.append(json.dumps({**named, "time": time}))
    book.path.parent.mkdir()
    book.path.write_text("\n".join(lines) + "\n")
    assert book.seconds == pytest.approx(8.0)
    assert book.content().done


WRITE_ON = """
import sys
from pathlib import Path
from workflows.storage.ledger import Ledger
book = Ledger(Path(sys.argv[1]))
for item in range(10**9):
    book.record(item, note="x" * 300)
    print(item, flush=True)
"""


def test_every_recorded_item_survives_a_kill(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_ON, str(book.path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        seen = [int(writer.stdout.readline()) for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        seen += [int(line) for line in writer.stdout if line.strip()]
    items = list(book.items())
    assert items[: len(seen)] == seen
    assert len(items) <= len(seen) + 1


def test_a_cleaned_stage_is_done_until_it_is_restored(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "extract.jsonl")
    ledger.begin("same", total=2, asked="all")
    ledger.record(0, images=5)
    ledger.record(1, images=5)
    ledger.end()
    before = ledger.content()
    ledger.clean()
    assert ledger.stage_done("same", "all")
    assert ledger.content() == replace(before, cleaned=True)
    ledger.restore()
    assert not ledger.stage_done("same", "all")
    assert (ledger.items(), ledger.content().cleaned) == ({}, True)
    ledger.begin("same", total=2, asked="all")
    ledger.record(0, images=5)
    assert ledger.content().cleaned, "half of it is back"
    ledger.record(1, images=5)
    ledger.end()
    assert (ledger.content().cleaned, ledger.items()) == (False, before.items)


def test_voided_items_are_to_be_done_again_and_the_others_stay(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "extract.jsonl")
    ledger.begin("f", 3)
    for item in (0, 1, 2):
        ledger.record(item, images=7)
    ledger.end()
    assert ledger.stage_done("f")
    ledger.void([1])
    assert not ledger.stage_done("f")
    assert list(ledger.items()) == [0, 2]
    ledger.begin("f", 3)
    ledger.record(1, images=8)
    ledger.end()
    assert ledger.stage_done("f")
    ledger.void([])
    assert not ledger.stage_done("f"), "what the stage writes at its end is to be written again"
    assert len(ledger.items()) == 3
