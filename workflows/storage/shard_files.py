"""The bytes of one shard's file, written and read without Zarr's own way through threads and copies.

Zarr takes four times as long for uncompressed columns, to write them, for it copies a shard several times, and to read
them; the bytes are the same. Source: Zarr v3 specification, ``sharding_indexed`` with the index at the end: the encoded
chunks, the place and length of each, a checksum of these.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.zstd
import numpy as np
import zarr
from jaxtyping import Shaped
from zarr.codecs import Crc32cCodec, ZstdCodec

Rows = Shaped[np.ndarray, "rows ..."]

_NOWHERE = np.iinfo(np.uint64).max
"""Place of a chunk that is not stored: behind the array's last row, or all fill value."""
_CHECKSUM_BYTES = 4


def shard_rows_of(array: zarr.Array[Any]) -> int:
    """Rows of one shard."""
    shards = array.shards
    return int(shards[0] if shards is not None else array.chunks[0])


def encoded_shard(array: zarr.Array[Any], block: Rows) -> Iterator[memoryview | bytes]:
    """Content of one shard's file.

    Args:
        array: which it belongs to, as ``create_array`` makes it.
        block: all rows of that shard, fewer only in the last one.
    """
    rows, size = array.chunks[0], shard_rows_of(array)
    places = np.full((size // rows, 2), _NOWHERE, "<u8")  # as they stand: a chunk behind the last row
    offset = 0
    for index, first in enumerate(range(0, len(block), rows)):
        pieces = _encoded_chunk(array, _whole_chunk(array, block[first : first + rows]))
        length = sum(map(len, pieces))
        places[index] = offset, length
        offset += length
        yield from pieces
    yield places.tobytes()
    yield _checksum(places)


def _whole_chunk(array: zarr.Array[Any], rows: Rows) -> Rows:
    """The rows as they lie in a chunk: one piece of memory, with the fill value behind the array's last row."""
    if len(rows) == array.chunks[0]:
        return np.ascontiguousarray(rows, array.dtype.newbyteorder("<"))
    chunk = np.full(array.chunks, array.fill_value, array.dtype.newbyteorder("<"))
    chunk[: len(rows)] = rows
    return chunk


def _encoded_chunk(array: zarr.Array[Any], chunk: Rows) -> list[memoryview | bytes]:
    flat = chunk.reshape(-1).view(np.uint8)
    match array.compressors:
        case (Crc32cCodec(),):
            return [flat.data, _checksum(flat)]
        case (ZstdCodec(level=level, checksum=checksum),):
            return [numcodecs.zstd.compress(flat, level, checksum)]
    raise ValueError(f"compressors: must be zstd or crc32c, got {array.compressors}; make the array by create_array")


def _checksum(values: Rows | bytes) -> bytes:
    return int(google_crc32c.value(values)).to_bytes(_CHECKSUM_BYTES, "little")


def read_shard(array: zarr.Array[Any], path: Path, first: int, found: Rows) -> None:
    """Fill ``found`` with rows of one shard, chunk by chunk.

    Args:
        array: which it belongs to.
        path: of the shard's file.
        first: row of the shard that comes first.
        found: as many rows as are wanted, in the array's dtype.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut short, or a checksum is wrong.
    """
    rows = array.chunks[0]
    with path.open("rb", buffering=0) as file:
        places = _places(file.fileno(), shard_rows_of(array) // rows)
        for index in range(first // rows, -(-(first + len(found)) // rows)):
            begin, end = max(index * rows, first), min((index + 1) * rows, first + len(found))
            part = found[begin - first : end - first]
            offset, length = (int(value) for value in places[index])
            if offset == _NOWHERE:
                part[...] = array.fill_value
            elif len(part) == rows and part.dtype == array.dtype.newbyteorder("<"):
                _read_chunk(array, file.fileno(), offset, length, part, index)
            else:
                chunk = np.empty(array.chunks, array.dtype.newbyteorder("<"))
                _read_chunk(array, file.fileno(), offset, length, chunk, index)
                part[...] = chunk[begin - index * rows : end - index * rows]


def _places(file: int, chunks: int) -> np.ndarray:
    """(chunks, 2): offset and length of each chunk."""
    size = 16 * chunks
    begin = os.fstat(file).st_size - size - _CHECKSUM_BYTES
    content = os.pread(file, size + _CHECKSUM_BYTES, begin) if begin >= 0 else b""
    if len(content) != size + _CHECKSUM_BYTES or _checksum(content[:size]) != content[size:]:
        raise ValueError("the places of the chunks are damaged: their checksum is wrong")
    return np.frombuffer(content[:size], "<u8").reshape(chunks, 2)


def _read_chunk(array: zarr.Array[Any], file: int, offset: int, length: int, chunk: Rows, index: int) -> None:
    """Decode one chunk into ``chunk``, which is one piece of memory."""
    flat = chunk.reshape(-1).view(np.uint8)
    match array.compressors:
        case (Crc32cCodec(),):
            good = length == len(flat) + _CHECKSUM_BYTES and _read_into(file, flat, offset)
            good = good and os.pread(file, _CHECKSUM_BYTES, offset + len(flat)) == _checksum(flat)
        case (ZstdCodec(),):
            packed = np.empty(length, np.uint8)
            good = _read_into(file, packed, offset)
            # Raises on a wrong checksum, but takes a smaller content than is wanted.
            good = good and len(content := numcodecs.zstd.decompress(packed)) == len(flat)
            if good:
                flat[...] = np.frombuffer(content, np.uint8)
        case _:
            raise ValueError(f"compressors: must be zstd or crc32c, got {array.compressors}")
    if not good:
        raise ValueError(f"chunk {index} is damaged: its length or checksum is wrong")


def _read_into(file: int, target: Rows, offset: int) -> bool:
    """Whether so many bytes were there: a system reads less than 2 GiB at once, and may read less than it was asked."""
    done = 0
    while done < len(target):
        read = os.preadv(file, [target[done:].data], offset + done)
        if read == 0:
            return False
        done += read
    return True
