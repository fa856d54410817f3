"""A statement asked of the tables of a run, by a child process with limits of memory and time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from workflows.errors import RunError, RunFolderError
from workflows.queries.limits import GRACE_S, MEMORY, RESULT_BYTES, SECONDS, TOO_MANY_ROWS
from workflows.storage.damage import undamaged
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import SCHEMAS


class QueryError(RunError):
    """A statement that is not answered, with the words of DuckDB and the columns that there are."""


def tables_of(folder: RunFolder) -> dict[str, str]:
    """Tables that are there: name -> file, in the order of their documentation.

    Raises:
        RunFolderError: none is there yet, or one is damaged.
    """
    found = {name: folder.existing_table(name) for name in SCHEMAS}
    there = {name: str(path.resolve()) for name, path in found.items() if path.exists()}
    for path in there.values():
        with undamaged(Path(path)):
            pq.read_metadata(path)
    if not there:
        raise RunFolderError(f"{str(folder.root)!r} has no table yet: run the stages that write some")
    return there


@contextmanager
def query(folder: RunFolder, sql: str, seconds: int = SECONDS) -> Iterator[pa.RecordBatchReader]:
    """Rows of one statement over the tables of a run, as they come.

    Args:
        folder: of the run; no file of it is written.
        sql: one statement that only reads, in DuckDB's SQL.
        seconds: after which it is ended.

    Raises:
        QueryError: not answered: DuckDB's words, and what columns there are; it takes too long or too much memory.
        RunFolderError: the run has no table yet.
    """
    tables = tables_of(folder)
    request = {"tables": tables, "sql": sql, "memory": MEMORY, "seconds": seconds}
    request |= {"result_bytes": RESULT_BYTES}
    with tempfile.TemporaryFile() as rows, tempfile.TemporaryFile() as words:
        # -P: a file in the current folder that is called like a library must not be taken for it.
        command = [sys.executable, "-P", "-m", "workflows.queries.confined"]
        try:
            done = subprocess.run(  # noqa: S603  # this interpreter, a module of ours; the statement is its input
                command,
                input=json.dumps(request).encode(),
                stdout=rows,
                stderr=words,
                timeout=seconds + GRACE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise QueryError(_too_long(seconds)) from None
        if done.returncode:
            words.seek(0)
            raise QueryError(_told(words.read().decode(errors="replace"), done.returncode, sql, tables, seconds))
        rows.seek(0)
        yield pa.ipc.open_stream(rows)


def _too_long(seconds: int) -> str:
    return f"the statement was ended after {seconds} s: ask for less at once, or give more time with --seconds"


def _told(words: str, code: int, sql: str, tables: dict[str, str], seconds: int) -> str:
    if code == TOO_MANY_ROWS:
        return f"the rows take more than {RESULT_BYTES / 2**30:.3g} GB: ask for fewer, with WHERE or LIMIT"
    if code < 0 or words.startswith("Out of Memory") or (code != 2 and "MemoryError" in words):
        return f"the statement took more memory than a query has ({MEMORY}): ask for less at once"
    if words.upper().startswith("INTERRUPT"):
        return _too_long(seconds)
    if code != 2:
        return f"the statement could not be asked: {words.strip().splitlines()[-1] if words.strip() else code}"
    return words.strip() + _columns_there_are(words, sql, tables)


def _columns_there_are(words: str, sql: str, tables: dict[str, str]) -> str:
    """Of the tables that the statement names; where it names none, the tables."""
    if not words.startswith(("Binder", "Catalog", "Parser")):
        return ""
    named = [name for name in tables if re.search(rf"\b{name}\b", sql, re.IGNORECASE)]
    if not named:
        return f"\ntables: {', '.join(tables)}"
    return "".join(f"\n{name} has: {', '.join(pq.read_schema(tables[name]).names)}" for name in named)
