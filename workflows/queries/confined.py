"""A child process that answers one statement: ``python -m workflows.queries.confined``, asked by ``asking_sql``.

DuckDB is given no path at all, only Arrow datasets; one that may read or write any file is not one setting away, for
the configuration is locked. Its own limits do not hold for everything (a string of two billion letters): the process
has a limit of memory, and the parent ends it on time.
"""

from __future__ import annotations

import errno
import json
import resource
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from workflows.queries.limits import PROCESS_BYTES, TOO_MANY_ROWS

ROWS_AT_ONCE = 65_536

_KINDS = ("SELECT", "EXPLAIN", "MULTI")
"""Statements that only read; PIVOT is MULTI."""


class RefusedStatement(Exception):
    """What is not answered, in words."""


def connect(tables: dict[str, str], memory: str, seconds: int) -> duckdb.DuckDBPyConnection:
    """A connection that knows these tables (name -> Parquet file) and can open nothing.

    Args:
        tables: of the run.
        memory: DuckDB's own limit, such as ``2GB``; it spills nothing to disk.
        seconds: after which a statement is interrupted.
    """
    connection = duckdb.connect(
        config={
            "threads": 2,
            "memory_limit": memory,
            "temp_directory": "",
            "max_temp_directory_size": "0B",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_persistent_secrets": False,
            "python_enable_replacements": False,
        }
    )
    for name, path in tables.items():
        connection.register(name, ds.dataset(path, format="parquet"))
    connection.execute("SET enable_progress_bar=false")
    connection.execute(f"SET max_execution_time={1000 * seconds}")
    connection.execute("SET enable_external_access=false")
    connection.execute("SET lock_configuration=true")
    return connection


def answer(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.RecordBatchReader:
    """The rows of one statement that only reads, as they come.

    Raises:
        RefusedStatement: none, several, or one that does not only read.
        duckdb.Error: DuckDB's own words.
    """
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise RefusedStatement(f"one statement is answered at a time, got {len(statements)}")
    try:
        kind = statements[0].type.name
    except ValueError:  # of a kind that this version of the library has no name for
        kind = "unknown"
    if kind not in _KINDS:
        raise RefusedStatement(f"only statements that read are answered, such as SELECT, got {kind}")
    return connection.sql(statements[0]).to_arrow_reader(ROWS_AT_ONCE)


def main() -> None:
    """Read the request (JSON) from standard input, write an Arrow stream, or words on standard error and rc 2."""
    request: dict[str, Any] = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_AS, (PROCESS_BYTES, PROCESS_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (request["result_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        connection = connect(request["tables"], request["memory"], request["seconds"])
        reader = answer(connection, request["sql"])
        with pa.ipc.new_stream(sys.stdout.buffer, reader.schema) as stream:
            for batch in reader:
                stream.write_batch(batch)
    except (RefusedStatement, duckdb.Error, pa.ArrowException, MemoryError) as error:
        told = str(error) or f"it needs more memory than the {PROCESS_BYTES >> 30} GB that a query has"
        sys.exit(_said(told))
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        sys.exit(TOO_MANY_ROWS)


def _said(words: str) -> int:
    Path("/dev/stderr").write_text(words, encoding="utf-8")
    return 2


if __name__ == "__main__":
    main()
