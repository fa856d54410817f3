"""What is done: one JSON line per finished item, synced before the next is handed out.

A file on disk is no proof that its shard is finished (Zarr leaves out empty shards, a killed writer leaves some
arrays of a shard written and others not), a line in the ledger is. Writing an item twice is harmless: the last line
counts.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflows.errors import RunFolderError
from workflows.storage.atomic import full_disk_in_words

Item = int | str


@dataclass(frozen=True)
class LedgerContent:
    """What a ledger says at one moment."""

    fingerprint: str | None = None
    """Of the inputs the stage was begun with; None before the first begin."""
    total: int | None = None
    """Items the stage has in all, if it said so."""
    done: bool = False
    """The stage came to its end."""
    seconds: float = 0.0
    """Time at work, over all drivers, from each begin to the last line written after it."""
    items: dict[Item, dict[str, Any]] = field(default_factory=dict)
    """Finished items and their fields."""
    failed: dict[Item, str] = field(default_factory=dict)
    """Items whose last line is a failure, and the reason."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Fields given to ``end``."""
    asked: str = ""
    """Which items were wanted."""
    cleaned: bool = False
    """What the items wrote was freed, and has not all come back."""


@dataclass(frozen=True)
class Ledger:
    """An append-only JSON-lines file of one stage. One driver writes it (the run folder's lock), anyone reads."""

    path: Path

    def begin(self, fingerprint: str, total: int | None = None, asked: str = "") -> None:
        """Mark the start of work on inputs with this fingerprint; another fingerprint voids every earlier item.

        ``asked``: which items are wanted; another one keeps them, but the stage is no longer done.
        """
        self._append({"mark": "begin", "fingerprint": fingerprint, "total": total, "asked": asked})

    def end(self, **fields: Any) -> None:
        """Mark that every item is finished; ``fields`` come back as ``content().summary``."""
        self._append({"mark": "end", "fields": fields})

    def clean(self) -> None:
        """Mark that what the items wrote is freed; the stage is as done as it was."""
        self._append({"mark": "clean"})

    def restore(self) -> None:
        """Mark that what was freed is to be written again: the stage is no longer done, and no item is."""
        self._append({"mark": "restore"})

    def void(self, items: Iterable[Item]) -> None:
        """Mark that these items are to be done again: the stage is no longer done."""
        self._append({"mark": "void", "items": list(items)})

    def record(self, item: Item, **fields: Any) -> None:
        """Note a finished item. Numpy scalars and arrays in ``fields`` become numbers and lists."""
        self._append({"item": item, "fields": fields})

    def record_failure(self, item: Item, reason: str) -> None:
        """Note an item that could not be finished; a later ``record`` of it clears this."""
        self._append({"item": item, "failed": reason})

    def items(self) -> dict[Item, dict[str, Any]]:
        """Finished items of the present inputs, in the order of their first line, with their fields."""
        return self.content().items

    def stage_done(self, fingerprint: str, asked: str = "") -> bool:
        """Whether the stage came to its end on inputs with this fingerprint, when the same items were wanted."""
        content = self.content()
        return content.done and content.fingerprint == fingerprint and content.asked == asked

    @property
    def seconds(self) -> float:
        """Time at work, see ``LedgerContent.seconds``."""
        return self.content().seconds

    def content(self) -> LedgerContent:
        """Read everything. A torn last line (the driver was killed while it wrote) is left out.

        Raises:
            RunFolderError: a line other than the last is damaged.
        """
        return _replay(self._lines())

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        *whole, _torn = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(whole, start=1):
            try:
                record = json.loads(line)
                if not _is_whole(record):
                    raise ValueError
            except ValueError:
                raise RunFolderError(
                    f"line {number} of {str(self.path)!r} is damaged: delete that file to redo the stage"
                ) from None
            yield record

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps({**record, "time": time.time()}, default=_plain).encode() + b"\n"
        with full_disk_in_words(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                _drop_torn_line(descriptor)
                if os.write(descriptor, line) < len(line):
                    _drop_torn_line(descriptor)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError as error:
                error.filename = str(self.path)  # the system does not say whose
                raise
            finally:
                os.close(descriptor)


def _is_whole(record: Any) -> bool:
    """Whether a line has what is read of it."""
    if not isinstance(record, dict) or not isinstance(record.get("time"), int | float):
        return False
    mark = record.get("mark")
    if mark is None:
        return isinstance(record.get("item"), int | str) and bool(
            isinstance(record.get("fields"), dict) or isinstance(record.get("failed"), str)
        )
    needed = {
        "begin": {"fingerprint", "total"}, "end": {"fields"}, "void": {"items"}, "clean": set(), "restore": set()
    }  # fmt: skip
    return mark in needed and needed[mark] <= record.keys()


def _drop_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    start = size
    while start > 0:
        block = os.pread(descriptor, min(4096, start), max(0, start - 4096))
        newline = block.rfind(b"\n")
        start = max(0, start - 4096)
        if newline >= 0:
            os.ftruncate(descriptor, start + newline + 1)
            return
    os.ftruncate(descriptor, 0)


def _replay(lines: Iterator[dict[str, Any]]) -> LedgerContent:
    fingerprint: str | None = None
    total: int | None = None
    asked, done, cleaned, seconds, last = "", False, False, 0.0, 0.0
    items: dict[Item, dict[str, Any]] = {}
    failed: dict[Item, str] = {}
    summary: dict[str, Any] = {}
    for line in lines:
        if line.get("mark") == "begin":
            if line["fingerprint"] != fingerprint:
                items, failed, seconds = {}, {}, 0.0
            fingerprint, total, done = line["fingerprint"], line["total"], False
            asked = line.get("asked", "")
        elif line.get("mark") == "clean":
            cleaned = True
        elif line.get("mark") == "restore":
            items, failed, done, seconds = {}, {}, False, 0.0
        elif line.get("mark") == "void":
            done = False
            for item in line["items"]:
                items.pop(item, None)
        else:
            # The time between a killed driver's last line and the next begin is not work.
            seconds += max(0.0, line["time"] - last)
            if line.get("mark") == "end":
                done, cleaned, summary = True, False, line["fields"]
            elif "failed" in line:
                items.pop(line["item"], None)
                failed[line["item"]] = line["failed"]
            else:
                failed.pop(line["item"], None)
                items[line["item"]] = line["fields"]
        last = line["time"]
    return LedgerContent(fingerprint, total, done, seconds, items, failed, summary, asked, cleaned)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a ledger holds numbers, text, lists and dictionaries, not {type(value).__name__}")
