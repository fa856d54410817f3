from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workflows.data.made_files import write_parquet
from workflows.data.parquet_pages import Chunk, Fetch, UnknownLayoutError, hybrid_values, locate_rows
from workflows.data.parquet_rows import _Layout


def cells(count: int, empty_every: int = 0) -> list[bytes | None]:
    random = np.random.default_rng(count)
    made: list[bytes | None] = [random.bytes(int(random.integers(0, 90))) for _ in range(count)]
    for i in range(3, count, empty_every or count + 3):
        made[i] = None
    made[-1] = made[0]  # a repeated value, for dictionaries
    return made


def fetch_of(descriptor: int) -> Fetch:
    return lambda offset, length: os.pread(descriptor, length, offset)


def located(path: Path) -> Iterator[bytes | None]:
    layout = _Layout.of(str(path))
    content = path.read_bytes()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for chunk in layout.chunks:
            assert chunk is not None
            places = locate_rows(fetch_of(descriptor), chunk)
            for offset, length in zip(places.offset, places.length, strict=True):
                yield content[offset : offset + length] if length >= 0 else None
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("empty_every", [0, 5, 1])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(
    "layout",
    [
        {"use_dictionary": False},
        {"use_dictionary": True},
        {"use_dictionary": True, "dictionary_pagesize_limit": 2000, "write_batch_size": 16},
        {"use_dictionary": False, "data_page_size": 500, "write_batch_size": 7},
        {"use_dictionary": False, "write_page_index": True, "write_page_checksum": True},
    ],
)
def test_every_row_is_where_the_pages_say(
    tmp_path: Path, layout: dict[str, Any], version: str, empty_every: int
) -> None:
    made = cells(330, empty_every)
    path = write_parquet(tmp_path / "a.parquet", made, row_group_size=100, data_page_version=version, **layout)
    assert list(located(path)) == made
    assert pq.ParquetFile(path).num_row_groups == 4


def test_the_real_shards(shared_data: Path) -> None:
    path = shared_data / "cifar10" / "test-00000-of-00002.parquet"
    assert list(located(path)) == pq.read_table(path)["image"].combine_chunks().field("bytes").to_pylist()


@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_other_encodings_are_not_guessed_at(tmp_path: Path, encoding: str) -> None:
    path = write_parquet(
        tmp_path / "a.parquet", cells(50), use_dictionary=False, column_encoding={"image.bytes": encoding}
    )
    with pytest.raises(UnknownLayoutError, match="encoding"):
        list(located(path))


def test_damaged_pages_end_in_an_unknown_layout_or_in_the_chunk(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", cells(60), use_dictionary=False, write_batch_size=20, data_page_size=1)
    chunk = _Layout.of(str(path)).chunks[0]
    assert chunk is not None
    intact, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    damaged_path = tmp_path / "damaged"
    for _ in range(400):
        damaged = bytearray(intact)
        damaged[int(random.integers(chunk.start, chunk.stop))] = int(random.integers(0, 256))
        damaged_path.write_bytes(damaged)
        descriptor = os.open(damaged_path, os.O_RDONLY)
        try:
            places = locate_rows(fetch_of(descriptor), chunk)
            assert len(places.offset) == 60
            assert ((places.offset + places.length) <= chunk.stop).all()
        except UnknownLayoutError:
            refused += 1
        finally:
            os.close(descriptor)
    assert 0 < refused < 400


def test_a_chunk_that_ends_too_early(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", cells(60))
    chunk = _Layout.of(str(path)).chunks[0]
    assert chunk is not None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for stop in range(chunk.start, chunk.stop, 37):
            with pytest.raises(UnknownLayoutError):
                locate_rows(fetch_of(descriptor), Chunk(chunk.start, stop, chunk.n_rows, chunk.max_definition))
    finally:
        os.close(descriptor)


def test_an_empty_row_group_has_no_places(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert len(locate_rows(fetch_of(descriptor), Chunk(4, 4, 0, 2)).offset) == 0
    finally:
        os.close(descriptor)


def packed(values: list[int], width: int) -> bytes:
    """One bit-packed run, bit after bit (Encodings.md): the lowest bit of the first value first."""
    padded = values + [0] * (-len(values) % 8)
    bits = [value >> bit & 1 for value in padded for bit in range(width)]
    body = bytes(sum(bit << i for i, bit in enumerate(bits[k : k + 8])) for k in range(0, len(bits), 8))
    return bytes([len(padded) // 8 << 1 | 1]) + body


@given(st.integers(1, 12), st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 2**12), min_size=1)), min_size=1))
@settings(deadline=None)
def test_runs_and_packed_runs_equal_the_slow_twin(width: int, runs: list[tuple[bool, list[int]]]) -> None:
    expected: list[int] = []
    made = b""
    for repeated, raw in runs:
        values = [value % 2**width for value in raw]
        if repeated:
            expected += [values[0]] * len(values)
            made += bytes([len(values) << 1]) + values[0].to_bytes((width + 7) // 8, "little")
        else:
            values += [0] * (-len(values) % 8)
            expected += values
            made += packed(values, width)
    assert hybrid_values(made, width, len(expected)).tolist() == expected
    assert hybrid_values(made, width, 1).tolist() == expected[:1]
    with pytest.raises(UnknownLayoutError, match="too early"):
        hybrid_values(made, width, len(expected) + 1)
    with pytest.raises(UnknownLayoutError, match="too early"):
        hybrid_values(made[:-1], width, len(expected))


def test_the_example_of_the_specification() -> None:
    # Encodings.md: the numbers 0 to 7 in 3 bits are 10001000 11000110 11111010.
    assert packed(list(range(8)), 3)[1:] == bytes([0b10001000, 0b11000110, 0b11111010])
    assert hybrid_values(packed(list(range(8)), 3), 3, 8).tolist() == list(range(8))
