"""Rows of an answer as a table of the terminal, as CSV, JSON or Parquet."""

from __future__ import annotations

import json
import math
import sys
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from rich.markup import escape
from rich.table import Table

from workflows.errors import RunError
from workflows.storage.atomic import replacing
from workflows.storage.tables import SCHEMAS


def first_rows(reader: pa.RecordBatchReader, most: int) -> tuple[pa.Table, int]:
    """At most so many rows, and how many there are."""
    kept: list[pa.RecordBatch] = []
    total, left = 0, most
    for batch in reader:
        total += batch.num_rows
        if left > 0 and batch.num_rows:
            kept.append(batch.slice(0, left))
            left -= kept[-1].num_rows
    return pa.Table.from_batches(kept, reader.schema), total


def rows_table(rows: pa.Table) -> Table:
    """Columns of numbers to the right, numbers with seven digits."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for field in rows.schema:
        numbers = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        table.add_column(escape(field.name), justify="right" if numbers else "left", overflow="fold")
    for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        table.add_row(*(escape(_text(value)) for value in row))
    return table


def schema_table(name: str, path: Path) -> Table:
    """Columns of a table that is there, with type, unit and meaning."""
    meant = SCHEMAS[name]
    # An older run may lack columns, or have them by other names.
    known = {field.name: field for field in pq.read_schema(path)}
    table = Table(
        title=f"{name} ({pq.read_metadata(path).num_rows:,} rows)", title_justify="left", box=None, pad_edge=False
    )
    for column in ("column", "type", "unit", "meaning"):
        table.add_column(column, overflow="fold")
    for field in known.values():
        told = meant.field(field.name) if field.name in meant.names else field
        about = {key.decode(): value.decode() for key, value in (told.metadata or {}).items()}
        table.add_row(field.name, str(field.type), escape(about.get("unit", "")), escape(about.get("description", "")))
    return table


def write_rows(reader: pa.RecordBatchReader, format_: str, out: Path | None) -> None:
    """All rows, as they come.

    Args:
        reader: of the rows.
        format_: ``csv``, ``json`` (a list of records), ``parquet``, or ``table``.
        out: the file, whole or not at all; None: standard output.

    Raises:
        RunError: CSV cannot hold a column of lists.
    """
    if out is None:
        _write(reader, format_, sys.stdout.buffer)
        return
    with replacing(out) as temporary, temporary.open("wb") as file:
        _write(reader, format_, file)


def _write(reader: pa.RecordBatchReader, format_: str, file: IO[bytes]) -> None:
    if format_ == "parquet":
        with pq.ParquetWriter(file, reader.schema, compression="zstd") as parquet:
            for batch in reader:
                parquet.write_batch(batch)
    elif format_ == "json":
        _write_json(reader, file)
    else:
        _write_csv(reader, file)
    file.flush()


def _write_csv(reader: pa.RecordBatchReader, file: IO[bytes]) -> None:
    nested = [field.name for field in reader.schema if pa.types.is_nested(field.type)]
    if nested:
        raise RunError(
            f"query: CSV cannot hold {', '.join(nested)}, whose values are lists: use --format json or parquet"
        )
    with pa_csv.CSVWriter(file, reader.schema) as csv:
        for batch in reader:
            csv.write_batch(batch)


def _write_json(reader: pa.RecordBatchReader, file: IO[bytes]) -> None:
    separator, names = b"[\n", unlike_names(reader.schema.names)
    for batch in reader:
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            row = dict(zip(names, map(_finite, values), strict=True))
            line = json.dumps(row, ensure_ascii=False, allow_nan=False, default=str)
            file.write(separator + line.encode())
            separator = b",\n"
    file.write((b"[" if separator == b"[\n" else b"\n") + b"]\n")


def plain_rows(rows: pa.Table) -> list[list[Any]]:
    """Rows as JSON can hold them."""
    return [[_finite(value) for value in row] for row in zip(*(one.to_pylist() for one in rows.columns), strict=True)]


def unlike_names(names: list[str]) -> list[str]:
    """Names of columns as keys of JSON: of equal ones the second has _2 behind it, and so on."""
    found: list[str] = []
    for name in names:
        number, own = 1, name
        while own in found:
            number, own = number + 1, f"{name}_{number + 1}"
        found.append(own)
    return found


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity, which are null, and no decimals, which DuckDB's sums of integers are."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.7g}"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)
