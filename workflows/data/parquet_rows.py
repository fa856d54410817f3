"""Encoded pictures from Parquet shards by file and row, in bounded memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workflows.data.parquet_pages import Chunk, Places, UnknownLayoutError, locate_rows
from workflows.errors import DataError

CACHE_BYTES = 128 * 2**20
"""Most bytes of encoded pictures that are kept for the next shard; used only where rows cannot be read singly."""

_PLACES_BYTES = 64 * 2**20
_LEAF = "image.bytes"


@dataclass(frozen=True)
class Span:
    """Bytes [offset, offset + length) of a file: one encoded picture that is not read yet."""

    file: str
    offset: int
    length: int

    def read(self) -> bytes:
        """The bytes; fewer where the file has been cut short."""
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            return os.pread(descriptor, self.length, self.offset)
        finally:
            os.close(descriptor)


def open_shard(file: str) -> pq.ParquetFile:
    """Open a Parquet file that has the columns ``image{bytes,path}`` and ``label``.

    Raises:
        DataError: it does not exist, is no Parquet file, or lacks a column.
    """
    try:
        shard = pq.ParquetFile(file)
    except FileNotFoundError:
        raise DataError(f"the Parquet file {file!r} does not exist; see data.train and data.validation") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file!r} is not a readable Parquet file: {error}") from None
    schema = shard.schema_arrow
    names = schema.names
    image = schema.field("image").type if "image" in names else None
    if (
        image is None
        or not pa.types.is_struct(image)
        or image.get_field_index("bytes") < 0
        or not _is_binary(image.field("bytes").type)
    ):
        raise DataError(f"{file!r} needs a column image{{bytes,path}} of encoded pictures; {_describe(schema)}")
    if "label" not in names:
        raise DataError(f"{file!r} needs a column label of integers; {_describe(schema)}")
    return shard


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


_Kept = TypeVar("_Kept", bound=_Sized)


class ByteBoundedCache(Generic[_Kept]):
    """Keeps the values used last, at most ``limit`` bytes of them, and always the newest one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple[str, int], _Kept] = OrderedDict()
        self.nbytes = 0

    def get(self, key: tuple[str, int]) -> _Kept | None:
        """The value, now the most recently used one; None if it is not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: tuple[str, int], value: _Kept) -> None:
        """Keep a new value and drop the least recently used ones beyond the limit."""
        self._kept[key] = value
        self.nbytes += value.nbytes
        while self.nbytes > self._limit and len(self._kept) > 1:
            self.nbytes -= self._kept.popitem(last=False)[1].nbytes


class ParquetRows:
    """Finds encoded pictures by (file, row).

    An uncompressed column is read picture by picture, from places found by walking its pages once. Any other is
    read by row group, the last of which are kept up to ``cache_bytes``. Not safe for several threads.
    """

    def __init__(self, cache_bytes: int = CACHE_BYTES) -> None:
        self._layouts: dict[str, _Layout] = {}
        self._places: ByteBoundedCache[Places] = ByteBoundedCache(_PLACES_BYTES)
        self._groups: ByteBoundedCache[pa.ChunkedArray] = ByteBoundedCache(cache_bytes)

    def find(self, rows: Sequence[tuple[str, int]]) -> Iterator[tuple[int, Span | bytes | None]]:
        """Yield (position in ``rows``, picture), row group by row group, so that each is read once a call.

        None stands for an empty cell.

        Raises:
            DataError: a file is no shard of pictures, or has no such row.
        """
        layouts = {file: self._layout(file) for file in sorted({file for file, _ in rows})}
        members: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for position, (file, row) in enumerate(rows):
            group, row_in_group = layouts[file].group_of(row)
            members.setdefault((file, group), []).append((position, row_in_group))
        for (file, group), wanted in sorted(members.items()):
            yield from self._of_group(layouts[file], group, wanted)

    def _of_group(
        self, layout: _Layout, group: int, wanted: list[tuple[int, int]]
    ) -> Iterator[tuple[int, Span | bytes | None]]:
        places = self._places_of(layout, group)
        if places is not None:
            for position, row in wanted:
                length = int(places.length[row])
                yield position, Span(layout.file, int(places.offset[row]), length) if length >= 0 else None
            return
        cells = self._group_cells(layout.file, group)
        for position, row in wanted:
            yield position, cells[row].as_py()

    def _places_of(self, layout: _Layout, group: int) -> Places | None:
        chunk = layout.chunks[group]
        if chunk is None:
            return None
        places = self._places.get((layout.file, group))
        if places is None:
            descriptor = os.open(layout.file, os.O_RDONLY)
            try:
                places = locate_rows(descriptor, chunk)
            except UnknownLayoutError:
                layout.chunks[group] = None
                return None
            finally:
                os.close(descriptor)
            self._places.put((layout.file, group), places)
        return places

    def _group_cells(self, file: str, group: int) -> pa.ChunkedArray:
        cells = self._groups.get((file, group))
        if cells is None:
            try:
                table = pq.ParquetFile(file).read_row_group(group, columns=[_LEAF], use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"row group {group} of {file!r} cannot be read: {error}") from None
            cells = pa.chunked_array([c.field("bytes") for c in table["image"].chunks], _leaf_type(table))
            self._groups.put((file, group), cells)
        return cells

    def _layout(self, file: str) -> _Layout:
        if file not in self._layouts:
            self._layouts[file] = _Layout.of(file)
        return self._layouts[file]


@dataclass(frozen=True)
class _Layout:
    # What is needed of a footer. The footer itself, which may hold whole pictures as statistics, is let go.
    file: str
    first_rows: np.ndarray
    chunks: list[Chunk | None]

    @classmethod
    def of(cls, file: str) -> _Layout:
        shard = open_shard(file)
        metadata, schema = shard.metadata, shard.schema
        leaf = next(i for i in range(len(schema)) if schema.column(i).path == _LEAF)
        definition = schema.column(leaf).max_definition_level
        sizes, chunks = [], []
        for group in range(metadata.num_row_groups):
            column = metadata.row_group(group).column(leaf)
            sizes.append(metadata.row_group(group).num_rows)
            plain = column.compression == "UNCOMPRESSED" and not schema.column(leaf).max_repetition_level
            chunks.append(_chunk(column, sizes[-1], definition) if plain else None)
        return cls(file, np.cumsum([0, *sizes]), chunks)

    def group_of(self, row: int) -> tuple[int, int]:
        n_rows = int(self.first_rows[-1])
        if not 0 <= row < n_rows:
            raise DataError(f"{self.file!r} has {n_rows} rows and no row {row}; run the index stage again")
        group = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        return group, row - int(self.first_rows[group])


def _chunk(column: Any, n_rows: int, definition: int) -> Chunk:
    start = column.data_page_offset
    if column.has_dictionary_page:
        start = min(start, column.dictionary_page_offset)
    return Chunk(start, start + column.total_compressed_size, n_rows, definition)


def parse_row_path(path: str) -> tuple[str, int]:
    """Split ``file#row``, as the image index writes it.

    Raises:
        DataError: there is no row number behind the last ``#``.
    """
    file, hash_sign, row = path.rpartition("#")
    if not hash_sign or not row.isdecimal():
        raise DataError(f"image path {path!r} must be <file>#<row>; run the index stage again")
    return file, int(row)


def absolute(path: str) -> str:
    """The path without ``..``, so that an actor started in another folder finds it."""
    return os.path.abspath(Path(path).expanduser())


def _leaf_type(table: pa.Table) -> pa.DataType:
    return table.schema.field("image").type.field("bytes").type


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _describe(schema: pa.Schema) -> str:
    return f"it has {', '.join(f'{field.name}: {field.type}' for field in schema) or 'no column'}"
