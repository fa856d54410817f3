"""labels.csv of a run folder: names that users gave words, shown wherever a word is."""

from __future__ import annotations

import csv
from pathlib import Path

from workflows.errors import DataError
from workflows.storage.run_folder import RunFolder

COLUMNS = ("scope", "layer", "word", "name")

WordNames = dict[tuple[str, int], str]
"""(layer, word) -> name, of one scope."""


def labels_path(folder: RunFolder) -> Path:
    """Where users write them."""
    return folder.root / "labels.csv"


def read_labels(folder: RunFolder, scope: str, aliases: dict[str, str] | None = None) -> WordNames:
    """Names of the words of a scope; none without the file.

    Args:
        folder: of the run.
        scope: whose words.
        aliases: names that a preset gives layers -> canonical names; both may stand in the file.

    Raises:
        DataError: the file is no CSV of these columns, or a word is no number; names the line.
    """
    path = labels_path(folder)
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{str(path)!r} must be a CSV file in UTF-8, got {error}; save it as such") from None
    names: WordNames = {}
    for line, row in enumerate(rows, start=2):
        if set(COLUMNS) - row.keys() or None in row.values() or None in row:
            came = ", ".join(str(cell) for cell in row if cell is not None)
            raise DataError(
                f"{str(path)!r} line {line} must have the columns {', '.join(COLUMNS)}, got {came}: {len(row)}; "
                "begin with a line of their names, and put a name with a comma into quotes"
            )
        if not row["word"].strip().isdecimal():
            raise DataError(
                f"{str(path)!r} line {line}: word must be a number from 0, got {row['word']!r}; take it from show"
            )
        if row["scope"].strip() == scope and row["name"].strip():
            layer = row["layer"].strip()
            names[(aliases or {}).get(layer, layer), int(row["word"])] = row["name"].strip()
    return names
