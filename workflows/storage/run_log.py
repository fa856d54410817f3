"""``log.jsonl`` in a run folder: what happened, when, on which host and by which process; bounded in size."""

from __future__ import annotations

import json
import logging
import os
import socket
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

LOG_FILE = "log.jsonl"
LOG_FILES = (LOG_FILE, f"{LOG_FILE}.1")
"""The one that is written, and the one before it."""

MOST_BYTES = 8_000_000
"""Of each; then the older one goes."""


class _Quiet(RotatingFileHandler):
    """That a line cannot be written, as on a full disk, stops no run and is told by what stops it."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class RunLog:
    """One JSON line a record, from any thread of the driver; closed at the end of the block.

    Args:
        root: the run folder.
        most_bytes: of a file.
    """

    def __init__(self, root: Path, most_bytes: int = MOST_BYTES) -> None:
        self._handler = _Quiet(root / LOG_FILE, maxBytes=most_bytes, backupCount=1, encoding="utf-8", delay=True)
        self._host = socket.gethostname()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._handler.close()

    def tell(self, event: str, *, place: str = "", **fields: Any) -> None:
        """Write a record.

        Args:
            event: what happened, in a word or two.
            place: ``host:process`` of the actor where it did; empty: in this process.
            fields: numbers and text; what is None is left out.
        """
        host, _, process = place.rpartition(":")
        head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "host": host or self._host}
        actor = {"actor": int(process)} if process.isdigit() else {"driver": os.getpid()}
        told = {name: value for name, value in fields.items() if value is not None}
        line = json.dumps({**head, **actor, "event": event, **told}, default=str, ensure_ascii=False)
        self._handler.handle(logging.LogRecord("run", logging.INFO, "", 0, "%s", (line,), None))
