"""CSV files that people write: lines with named columns, or a clear word of what is wrong with them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from workflows.errors import DataError

Record = dict[str, str]
"""A line: texts by column, without space around them; a cell that is not there is empty."""


def csv_records(path: Path, what: str, columns: Sequence[str], remedy: str = "") -> list[tuple[int, Record]]:
    """The lines of a file below its header, with their numbers.

    Args:
        path: of the file.
        what: it is, as errors call it.
        columns: that it must have; others may be there.
        remedy: where there is no such file; empty: a CSV with these columns.

    Raises:
        DataError: the file is missing, empty or no CSV, or lacks a column.
    """
    needs = f"it needs {', '.join(columns)}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{what} {str(path)!r}: no column {', '.join(missing)}; {needs}")
            records = [(reader.line_num, _texts(record)) for record in reader]
    except FileNotFoundError:
        told = remedy or f"give a CSV with {', '.join(columns)}"
        raise DataError(f"{what} {str(path)!r}: there is no such file; {told}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{what} {str(path)!r} cannot be read as CSV: {error}") from None
    if not records:
        raise DataError(f"{what} {str(path)!r}: the file has no line below its header")
    return records


def _texts(record: dict[str, str | None]) -> Record:
    """More cells than columns are left out: csv keeps them as a list under None."""
    return {column: (text or "").strip() for column, text in record.items() if isinstance(column, str)}
