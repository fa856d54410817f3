"""Rows of a table that come in one order and are written in another, on disk in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from workflows.storage.atomic import TEMPORARY_SUFFIX, full_disk_in_words
from workflows.storage.tables import SCHEMAS, to_table

Key = tuple[str | int, ...]


class KeyedRows:
    """A table in pieces, a piece for every key: a record batch of an Arrow file (zstd), which is read by its number.

    In memory are the keys, and one piece.
    """

    def __init__(self, path: Path, table: str) -> None:
        self._path, self._table = path, table
        self._keys: list[Key] = []
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, SCHEMAS[table], options=options)

    def add(self, key: Key, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep rows of a key. Raises ValueError as ``write_table``; DiskFull."""
        with full_disk_in_words(self._path):
            for batch in to_table(rows, self._table).to_batches():
                self._writer.write_batch(batch)
                self._keys.append(key)

    def in_order(self) -> Iterator[pa.Table]:
        """The pieces by ascending key, those of one key in the order they came; after that nothing can be added."""
        self.close()
        with pa.OSFile(str(self._path)) as file, pa.ipc.open_file(file) as reader:
            for place in sorted(range(len(self._keys)), key=self._keys.__getitem__):
                yield pa.Table.from_batches([reader.get_batch(place)])

    def close(self) -> None:
        """End the file, unless that is done."""
        if self._file.closed:
            return
        with full_disk_in_words(self._path):
            self._writer.close()
            self._file.close()


@contextmanager
def keyed_rows(path: Path, table: str) -> Iterator[KeyedRows]:
    """Rows for the table at ``path``, in a file beside it that lasts as long as the context.

    Readers of tables never see the file, and what a killed run left of it goes at the next start.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
    rows = KeyedRows(temporary, table)
    try:
        yield rows
    finally:
        rows.close()
        temporary.unlink(missing_ok=True)
