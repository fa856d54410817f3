from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workflows.data.made_files import IMAGE_TYPE, write_parquet
from workflows.data.parquet_index import labelled_rows
from workflows.data.parquet_rows import ByteBoundedCache, ParquetRows, Span, parse_row_path
from workflows.errors import DataError


def values(count: int, size: int) -> list[bytes | None]:
    return [np.random.default_rng(i).bytes(size) for i in range(count)]


def found(reader: ParquetRows, rows: list[tuple[str, int]]) -> list[bytes | None]:
    result: list[bytes | None] = [b"not found"] * len(rows)
    for position, picture in reader.find(rows):
        result[position] = picture.read() if isinstance(picture, Span) else picture
    return result


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_scattered_rows_of_several_files(tmp_path: Path, compression: str) -> None:
    made: dict[str, int] = {}
    for name, count in (("a", 40), ("b#c", 25)):
        path = tmp_path / f"{name}.parquet"
        made[str(write_parquet(path, values(count, 60), compression=compression, row_group_size=7))] = count
    rows = [(file, row) for file, count in made.items() for row in range(count)] * 2
    np.random.default_rng(1).shuffle(rows)
    assert found(ParquetRows(), rows) == [np.random.default_rng(row).bytes(60) for _, row in rows]


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_an_empty_cell_is_none(tmp_path: Path, compression: str) -> None:
    file = str(write_parquet(tmp_path / "a.parquet", [b"x", None, b""], compression=compression))
    assert found(ParquetRows(), [(file, 2), (file, 1), (file, 0)]) == [b"", None, b"x"]


def test_uncompressed_pictures_are_read_singly_and_none_is_kept(tmp_path: Path) -> None:
    file = str(write_parquet(tmp_path / "a.parquet", values(500, 5000), row_group_size=100))
    reader = ParquetRows()
    before = pa.total_allocated_bytes()
    assert all(isinstance(picture, Span) for _, picture in reader.find([(file, row) for row in range(500)]))
    assert reader._groups.nbytes == 0
    assert reader._places.nbytes == 500 * 16
    assert pa.total_allocated_bytes() - before < 100_000


def test_compressed_pictures_are_kept_up_to_the_bound(tmp_path: Path) -> None:
    file = str(write_parquet(tmp_path / "a.parquet", values(600, 5000), compression="snappy", row_group_size=100))
    bound = 1_200_000  # two row groups of 500 kB
    reader = ParquetRows(cache_bytes=bound)
    before = pa.total_allocated_bytes()
    for row in [*range(600), *range(0, 600, 50)]:
        assert found(reader, [(file, row)]) == [np.random.default_rng(row).bytes(5000)]
        assert 0 < reader._groups.nbytes <= bound
        assert pa.total_allocated_bytes() - before < 2 * bound


def test_a_layout_that_is_not_understood_is_read_by_row_group(tmp_path: Path) -> None:
    file = str(
        write_parquet(
            tmp_path / "a.parquet",
            values(50, 20),
            use_dictionary=False,
            column_encoding={"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"},
        )
    )
    reader = ParquetRows()
    assert found(reader, [(file, 49), (file, 3)]) == [np.random.default_rng(row).bytes(20) for row in (49, 3)]
    assert reader._groups.nbytes > 0


def test_the_cache_drops_what_was_used_longest_ago() -> None:
    cache: ByteBoundedCache[np.ndarray] = ByteBoundedCache(30)
    for key in range(3):
        cache.put(("f", key), np.zeros(10, np.uint8))
    assert cache.get(("f", 0)) is not None
    cache.put(("f", 3), np.zeros(10, np.uint8))
    assert [cache.get(("f", key)) is not None for key in range(4)] == [True, False, True, True]
    cache.put(("f", 4), np.zeros(99, np.uint8))
    assert cache.nbytes == 99
    assert cache.get(("f", 4)) is not None


def test_a_row_behind_the_end(tmp_path: Path) -> None:
    file = str(write_parquet(tmp_path / "a.parquet", values(3, 5)))
    with pytest.raises(DataError, match="has 3 rows and no row 3; run the index stage again"):
        found(ParquetRows(), [(file, 3)])


def write(path: Path, **columns: pa.Array) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_files_without_pictures_or_labels(tmp_path: Path) -> None:
    labels = pa.array([1])
    image = pa.array([{"bytes": b"", "path": ""}], IMAGE_TYPE)
    wrong = [
        (write(tmp_path / "1", label=labels), r"needs a column image\{bytes,path\}.*it has label: int64"),
        (write(tmp_path / "2", image=labels, label=labels), r"needs a column image\{bytes,path\}.*image: int64"),
        (write(tmp_path / "3", image=pa.array([{"path": ""}]), label=labels), "image{bytes,path}"),
        (write(tmp_path / "4", image=pa.array([{"bytes": "text"}]), label=labels), "image{bytes,path}"),
        (write(tmp_path / "5", image=image), "needs a column label of integers or names.* it has image: struct"),
        (str(tmp_path / "6"), "does not exist; see data.train and data.validation"),
        (str(tmp_path), "is not a readable Parquet file"),
    ]
    (tmp_path / "7").write_bytes(b"PAR1 not really")
    wrong.append((str(tmp_path / "7"), "is not a readable Parquet file"))
    for file, words in wrong:
        with pytest.raises(DataError, match=words):
            labelled_rows([file])


def test_row_paths() -> None:
    assert parse_row_path("/a/b#2.parquet#17") == ("/a/b#2.parquet", 17)
    for wrong in ("a.parquet", "a.parquet#", "a.parquet#x", "a#-1"):
        with pytest.raises(DataError, match="must be <file>#<row>"):
            parse_row_path(wrong)
