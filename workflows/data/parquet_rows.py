"""Encoded pictures from Parquet files by file and row, in bounded memory."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workflows.data.decoding import PictureError
from workflows.data.file_states import FileState, fault, read_part
from workflows.data.parquet_columns import ImageColumn, image_column, open_parquet
from workflows.data.parquet_pages import Chunk, Places, UnknownLayoutError, locate_rows
from workflows.errors import DataError
from workflows.storage.names import file_path
from workflows.storage.object_store import is_uri, opened

CACHE_BYTES = 128 * 2**20
"""Most bytes of encoded pictures that are kept for the next call; used only where rows cannot be read singly."""

_PLACES_BYTES = 64 * 2**20
_WORTH_A_REQUEST, _HEADERS_BYTES = 2**20, 2**12
"""Pictures of an object store above so many bytes are stepped over; then so many are fetched at a time."""
_PLACE = re.compile(r"(?s)(.*)#([^#]*)@([0-9]+)\+([0-9]+)")


@dataclass(frozen=True)
class Span:
    """Bytes [offset, offset + length) of a file: one encoded picture that is not read yet."""

    file: str
    offset: int
    length: int

    def read(self, state: FileState | None = None) -> bytes:
        """The bytes; fewer where a local file has been cut short.

        Raises:
            OSError. DataError: it is not the file of that state.
        """
        return read_part(self.file, self.offset, self.length, state)


def span_path(file: str, name: str, offset: int, length: int) -> str:
    """``file#name@offset+length``, as the index names a picture whose place in a file is known."""
    return f"{file}#{name.replace('%', '%25').replace('#', '%23')}@{offset}+{length}"


def parse_span(path: str) -> Span | None:
    """The place of a picture; None: the path tells none."""
    found = _PLACE.fullmatch(path)
    return None if found is None else Span(found[1], int(found[3]), int(found[4]))


Encoded = Span | bytes | Path | PictureError | None
"""A picture that is not decoded yet, or the reason why there is none; None: the cell is empty."""


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
    read by row group, the last of which are kept up to ``cache_bytes``. A cell without bytes may have a path, absolute
    or relative to the folder of the file. Not safe for several threads.
    """

    def __init__(self, cache_bytes: int = CACHE_BYTES, column: str = "") -> None:
        self._column = column
        self._layouts: dict[str, _Layout] = {}
        self._places: ByteBoundedCache[Places] = ByteBoundedCache(_PLACES_BYTES)
        self._groups: ByteBoundedCache[pa.ChunkedArray] = ByteBoundedCache(cache_bytes)

    def find(self, rows: Sequence[tuple[str, int]]) -> Iterator[tuple[int, Encoded]]:
        """Yield (position in ``rows``, picture), row group by row group, so that each is read once a call.

        None stands for an empty cell.

        Raises:
            DataError: a file has no pictures, or no such row.
        """
        layouts = {file: self._layout(file) for file in sorted({file for file, _ in rows})}
        members: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for position, (file, row) in enumerate(rows):
            group, row_in_group = layouts[file].group_of(row)
            members.setdefault((file, group), []).append((position, row_in_group))
        for (file, group), wanted in sorted(members.items()):
            yield from self._of_group(layouts[file], group, wanted)

    def named(self, rows: Sequence[tuple[str, int]]) -> Iterator[tuple[int, Path]]:
        """Yield (position in ``rows``, file) of the pictures that cells name instead of holding them.

        A group without a cell that lacks its bytes is told by its statistics, and not read.

        Raises:
            DataError: see ``find``.
        """
        layouts = {file: self._layout(file) for file in sorted({file for file, _ in rows})}
        naming = {file: layout for file, layout in layouts.items() if layout.column.path_leaf and layout.incomplete}
        positions = [
            position
            for position, (file, row) in enumerate(rows)
            if file in naming and naming[file].group_of(row)[0] in naming[file].incomplete
        ]
        for place, picture in self.find([rows[position] for position in positions]):
            if isinstance(picture, Path):
                yield positions[place], picture

    def placed(self, file: str) -> Iterator[str]:
        """Paths in the index of all rows of a file, each with its place, where it can be told.

        Raises:
            DataError: it has no pictures.
            OSError: it cannot be read.
        """
        layout = self._layout(file)
        for group, first in enumerate(layout.first_rows[:-1].tolist()):
            n_rows = int(layout.first_rows[group + 1]) - first
            places = self._places_of(layout, group)
            if places is None:
                places = Places(np.full(n_rows, -1), np.full(n_rows, -1))
            spans = zip(places.offset.tolist(), places.length.tolist(), strict=True)
            for row, (offset, length) in enumerate(spans, first):
                yield f"{file}#{row}" if length < 0 else span_path(file, str(row), offset, length)

    def _of_group(self, layout: _Layout, group: int, wanted: list[tuple[int, int]]) -> Iterator[tuple[int, Encoded]]:
        missing = []
        for position, row, cell in self._bytes_of_group(layout, group, wanted):
            if cell is None and layout.column.path_leaf is not None:
                missing.append((position, row))
            else:
                yield position, cell
        if missing:
            paths = self._group_cells(layout, group, layout.column.path_leaf or "")
            for position, row in missing:
                yield position, _followed(paths[row].as_py(), layout.file)

    def _bytes_of_group(
        self, layout: _Layout, group: int, wanted: list[tuple[int, int]]
    ) -> Iterator[tuple[int, int, Span | bytes | None]]:
        places = self._places_of(layout, group)
        if places is not None:
            for position, row in wanted:
                length = int(places.length[row])
                yield position, row, Span(layout.file, int(places.offset[row]), length) if length >= 0 else None
            return
        leaf = layout.column.bytes_leaf
        cells = self._group_cells(layout, group, leaf) if leaf is not None else None
        for position, row in wanted:
            yield position, row, None if cells is None else cells[row].as_py()

    def _places_of(self, layout: _Layout, group: int) -> Places | None:
        chunk = layout.chunks[group]
        if chunk is None:
            return None
        places = self._places.get((layout.file, group))
        if places is None:
            try:
                places = _walked(layout.file, chunk)
            except UnknownLayoutError:
                layout.chunks[group] = None
                return None
            self._places.put((layout.file, group), places)
        return places

    def _group_cells(self, layout: _Layout, group: int, leaf: str) -> pa.ChunkedArray:
        key = (f"{layout.file}:{leaf}", group)
        cells = self._groups.get(key)
        if cells is None:
            try:
                table = open_parquet(layout.file).read_row_group(group, columns=[leaf], use_threads=False)
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno:  # without a number, Arrow means what the file holds
                    raise fault(layout.file, error) from None
                raise DataError(f"row group {group} of {layout.file!r} cannot be read: {error}") from None
            cells = table[layout.column.name]
            if leaf != layout.column.name:
                cells = pc.struct_field(cells, leaf.removeprefix(f"{layout.column.name}."))
            self._groups.put(key, cells)
        return cells

    def _layout(self, file: str) -> _Layout:
        if file not in self._layouts:
            self._layouts[file] = _Layout.of(file, self._column)
        return self._layouts[file]


@dataclass(frozen=True)
class _Layout:
    # What is needed of a footer. The footer itself, which may hold whole pictures as statistics, is let go.
    file: str
    column: ImageColumn
    first_rows: np.ndarray
    chunks: list[Chunk | None]
    incomplete: frozenset[int]
    """Groups in which cells may lack their bytes."""

    @classmethod
    def of(cls, file: str, wanted: str = "") -> _Layout:
        opened = open_parquet(file)
        metadata, schema = opened.metadata, opened.schema
        column = image_column(opened.schema_arrow, file, wanted)
        leaf = next((i for i in range(len(schema)) if schema.column(i).path == column.bytes_leaf), None)
        sizes, chunks, incomplete = [], [], []
        for group in range(metadata.num_row_groups):
            sizes.append(metadata.row_group(group).num_rows)
            chunks.append(None if leaf is None else _chunk(metadata, schema.column(leaf), group, leaf))
            known = None if leaf is None else metadata.row_group(group).column(leaf).statistics
            if known is None or not known.has_null_count or known.null_count:
                incomplete.append(group)
        return cls(file, column, np.cumsum([0, *sizes]), chunks, frozenset(incomplete))

    def group_of(self, row: int) -> tuple[int, int]:
        n_rows = int(self.first_rows[-1])
        if not 0 <= row < n_rows:
            raise DataError(f"{self.file!r} has {n_rows} rows and no row {row}; run the index stage again")
        group = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        return group, row - int(self.first_rows[group])


def _chunk(metadata: Any, leaf: Any, group: int, position: int) -> Chunk | None:
    """Where an uncompressed column of one value a row lies; None for any other."""
    column = metadata.row_group(group).column(position)
    if column.compression != "UNCOMPRESSED" or leaf.max_repetition_level:
        return None
    start = column.data_page_offset
    if column.has_dictionary_page:
        start = min(start, column.dictionary_page_offset)
    n_rows = metadata.row_group(group).num_rows
    return Chunk(start, start + column.total_compressed_size, n_rows, leaf.max_definition_level)


def _walked(file: str, chunk: Chunk) -> Places:
    """Raises UnknownLayoutError, OSError."""
    if not is_uri(file):
        descriptor = os.open(file_path(file), os.O_RDONLY)
        try:
            return locate_rows(lambda offset, length: os.pread(descriptor, length, offset), chunk)
        finally:
            os.close(descriptor)
    # A request takes as long as some megabytes: where pictures are smaller, all is fetched, though little is looked at.
    large = (chunk.stop - chunk.start) / max(chunk.n_rows, 1) > _WORTH_A_REQUEST
    with opened(file, _HEADERS_BYTES) if large else opened(file) as content:

        def fetch(offset: int, length: int) -> bytes:
            content.seek(offset)
            return content.read(length)

        return locate_rows(fetch, chunk)


def _followed(path: str | None, file: str) -> Path | PictureError | None:
    """The picture that a cell without bytes names; relative paths stay in the folder of the Parquet file."""
    if not path:
        return None
    if is_uri(path):
        return PictureError(f"its path {path!r} is no local file; store the bytes, or download the files")
    if is_uri(file):
        return PictureError(f"its path {path!r} is no part of {file!r}; store the bytes in files of an object store")
    if os.path.isabs(path):
        return Path(path)
    inside = os.path.normpath(path)
    if inside.split(os.sep)[0] == os.pardir:
        return PictureError(f"its path {path!r} leaves the folder of the Parquet file; give absolute paths")
    return Path(os.path.dirname(file_path(file)), inside)


def parse_row_path(path: str) -> tuple[str, int]:
    """Split ``file#row``, as the image index writes it.

    Raises:
        DataError: there is no row number behind the last ``#``.
    """
    file, hash_sign, row = path.rpartition("#")
    if not hash_sign or not row.isdecimal():
        raise DataError(f"image path {path!r} must be <file>#<row>; run the index stage again")
    return file, int(row)
