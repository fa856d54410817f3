"""Where in a Parquet file the bytes of each row of an uncompressed binary column lie.

Shards of a run, in class order, ask for rows scattered over every file, while Parquet reads whole row groups, so that
one image would cost a hundred. Encoded pictures do not compress, so writers often store them plainly; then each
one can be read from its place. Only the layouts below are understood, anything else is left to the row-group reader.

Why it stays: pyarrow reads no row of a row group alone, and images of a run lie in class order, so that a class of a
split is one range of rows of every array. Reading in the order of the files would make this module superfluous, but
classes lists of rows: every read of a class, in fit, words and count, would become scattered instead.

Format: the Parquet specification (parquet.thrift, Encodings.md), Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3
_PLAIN, _PLAIN_DICTIONARY, _RLE, _RLE_DICTIONARY = 0, 2, 3, 8


Fetch = Callable[[int, int], bytes]
"""Bytes of the file from an offset on, so many or fewer at its end."""


class UnknownLayoutError(Exception):
    """The column chunk is laid out in a way that is not understood here."""


@dataclass(frozen=True)
class Chunk:
    """An uncompressed column chunk: its bytes [start, stop) in the file, and the level of a present value."""

    start: int
    stop: int
    n_rows: int
    max_definition: int


@dataclass(frozen=True)
class Places:
    """File offset and length in bytes of the value of every row of a chunk; length -1 for an empty cell."""

    offset: Int[np.ndarray, "n"]
    length: Int[np.ndarray, "n"]

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.offset.nbytes + self.length.nbytes


_NOWHERE = Places(np.zeros(0, np.int64), np.zeros(0, np.int64))


def locate_rows(fetch: Fetch, chunk: Chunk) -> Places:
    """Walk the pages of a chunk, reading headers, levels and lengths but no value.

    Raises:
        UnknownLayoutError: an encoding other than plain or dictionary, or a damaged page.
    """
    try:
        return _locate(fetch, chunk)
    except (KeyError, IndexError, TypeError, RecursionError) as error:
        raise UnknownLayoutError(f"a page header without a required field ({error})") from None


def _locate(fetch: Fetch, chunk: Chunk) -> Places:
    dictionary: Places | None = None
    parts: list[Places] = [_NOWHERE]
    position, n_rows = chunk.start, 0
    while n_rows < chunk.n_rows:
        header = _HeaderCursor(fetch, position, chunk.stop)
        page = header.struct()
        body, kind = header.position, page.get(1)
        stop = body + _natural(page, 3)
        if stop > chunk.stop:
            raise UnknownLayoutError("a page ends behind its column chunk")
        if kind == _DICTIONARY_PAGE:
            dictionary = _walk(fetch, body, stop, _natural(page[7], 1))
        elif kind in (_DATA_PAGE, _DATA_PAGE_V2):
            parts.append(_data_page(fetch, (body, stop), page, chunk, dictionary))
            n_rows += len(parts[-1].offset)
        position = stop
    if n_rows != chunk.n_rows:
        raise UnknownLayoutError("the pages hold more rows than the column chunk")
    return Places(np.concatenate([p.offset for p in parts]), np.concatenate([p.length for p in parts]))


def _data_page(
    fetch: Fetch, span: tuple[int, int], page: dict[int, Any], chunk: Chunk, dictionary: Places | None
) -> Places:
    position, stop = span
    max_definition = chunk.max_definition
    second = page[1] == _DATA_PAGE_V2
    header = page[8 if second else 5]
    n_rows, encoding = _natural(header, 1), header[4 if second else 2]
    if n_rows > chunk.n_rows:
        raise UnknownLayoutError("a page holds more rows than its column chunk")
    if second:
        if _natural(header, 6):
            raise UnknownLayoutError("repeated values")
        levels_length = _natural(header, 5)
    elif max_definition and header[3] != _RLE:
        raise UnknownLayoutError("definition levels that are not run-length encoded")
    elif max_definition:
        levels_length, position = int.from_bytes(_read(fetch, position, 4), "little"), position + 4
    else:
        levels_length = 0
    levels = _read(fetch, position, levels_length) if max_definition else b""
    position += levels_length
    present = np.ones(n_rows, dtype=bool)
    if max_definition:
        present = hybrid_values(levels, max_definition.bit_length(), n_rows) == max_definition
    values = _page_values(fetch, (position, stop), encoding, int(present.sum()), dictionary)
    offset, length = np.zeros(n_rows, np.int64), np.full(n_rows, -1, np.int64)
    offset[present], length[present] = values.offset, values.length
    return Places(offset, length)


def _page_values(
    fetch: Fetch, span: tuple[int, int], encoding: int, n_values: int, dictionary: Places | None
) -> Places:
    position, stop = span
    if encoding == _PLAIN:
        return _walk(fetch, position, stop, n_values)
    if encoding not in (_PLAIN_DICTIONARY, _RLE_DICTIONARY) or dictionary is None:
        raise UnknownLayoutError(f"encoding {encoding}")
    encoded = _read(fetch, position, stop - position)
    codes = hybrid_values(encoded[1:], encoded[0], n_values) if n_values else np.zeros(0, np.int64)
    if codes.max(initial=-1) >= len(dictionary.offset):
        raise UnknownLayoutError("a code outside the dictionary")
    return Places(dictionary.offset[codes], dictionary.length[codes])


def _walk(fetch: Fetch, position: int, stop: int, n_values: int) -> Places:
    # Plain byte arrays: a length of four bytes before each value. Four bytes are fetched at a time, for the
    # values between them are exactly what must not be read.
    if 4 * n_values > stop - position:
        raise UnknownLayoutError("a page is too short for its values")
    offset, length = np.empty(n_values, np.int64), np.empty(n_values, np.int64)
    for i in range(n_values):
        size = int.from_bytes(_read(fetch, position, 4), "little")
        offset[i], length[i] = position + 4, size
        position += 4 + size
        if position > stop:
            raise UnknownLayoutError("a value ends behind its page")
    return Places(offset, length)


def hybrid_values(encoded: bytes, width: int, n_values: int) -> Int[np.ndarray, "n"]:
    """Decode ``n_values`` numbers of ``width`` bits from the run-length / bit-packed hybrid encoding.

    Raises:
        UnknownLayoutError: the bytes end too early.
    """
    values = np.zeros(n_values, np.int64)
    position = filled = 0
    while filled < n_values and width:
        head, position = _varint(encoded, position)
        if head & 1:
            n_bytes = (head >> 1) * width
            packed = np.frombuffer(encoded[position : position + n_bytes], np.uint8)
            bits = np.unpackbits(packed, bitorder="little").astype(np.int64)
            run = bits[: len(bits) // width * width].reshape(-1, width) @ (1 << np.arange(width, dtype=np.int64))
        else:
            n_bytes = (width + 7) // 8
            value = int.from_bytes(encoded[position : position + n_bytes], "little")
            run = np.full(min(head >> 1, n_values - filled), value)
        if position + n_bytes > len(encoded) or not len(run):
            raise UnknownLayoutError("runs end too early")
        position += n_bytes
        run = run[: n_values - filled]
        values[filled : filled + len(run)] = run
        filled += len(run)
    return values


class _HeaderCursor:
    """Reads one Thrift compact structure from the file, stepping over the texts in it.

    Statistics in a page header can hold whole pictures, so the header is read in small pieces.
    """

    _PIECE = 64

    def __init__(self, fetch: Fetch, position: int, stop: int) -> None:
        self._fetch = fetch
        self._stop = stop
        self._piece, self._piece_start = b"", position
        self.position = position

    def struct(self) -> dict[int, Any]:
        """Field number to value; texts are stepped over and left out."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            kind = head & 0x0F
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            if kind in (1, 2):
                fields[number] = kind == 1
            elif kind == 3:
                fields[number] = self._byte()
            elif kind in (4, 5, 6):
                fields[number] = self._zigzag()
            elif kind == 7:
                self.position += 8
            elif kind == 8:
                length = self._number()
                self.position += length
            elif kind == 12:
                fields[number] = self.struct()
            else:
                raise UnknownLayoutError(f"field type {kind} in a page header")
        return fields

    def _byte(self) -> int:
        index = self.position - self._piece_start
        if not 0 <= index < len(self._piece):
            if self.position >= self._stop:
                raise UnknownLayoutError("a page header ends behind its column chunk")
            self._piece, self._piece_start = self._fetch(self.position, self._PIECE), self.position
            index = 0
            if not self._piece:
                raise UnknownLayoutError("the file ends within a page header")
        self.position += 1
        return self._piece[index]

    def _number(self) -> int:
        result = shift = 0
        while True:
            byte = self._byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7

    def _zigzag(self) -> int:
        number = self._number()
        return (number >> 1) ^ -(number & 1)


def _varint(encoded: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while position < len(encoded):
        byte = encoded[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise UnknownLayoutError("runs end too early")


def _read(fetch: Fetch, position: int, length: int) -> bytes:
    data = fetch(position, length)
    if len(data) != length:
        raise UnknownLayoutError("the file ends within a page")
    return data


def _natural(fields: dict[int, Any], number: int) -> int:
    value = fields.get(number)
    if not isinstance(value, int) or value < 0:
        raise UnknownLayoutError(f"field {number} of a page header is missing")
    return value
