from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from workflows.errors import RunFolderError
from workflows.storage.arrays import (
    choose_codec,
    create_array,
    missing_shards,
    open_array,
    read_arrays,
    read_attributes,
    read_rows,
    shard_rows_of,
    write_arrays,
    write_shard,
)

ROWS, SHARD, CHUNK = 22, 8, 4


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, 3, 5)).astype(np.float16)


def make(path: Path, values: np.ndarray, **changes: Any) -> zarr.Array[Any]:
    arguments = {"chunk_rows": CHUNK, "shard_rows": SHARD, **changes}
    return create_array(path, values.shape, values.dtype, **arguments)


def fill(path: Path, values: np.ndarray) -> None:
    for first in range(0, len(values), SHARD):
        write_shard(path, first, values[first : first + SHARD])


@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_rows_come_back_bit_for_bit_from_any_range(tmp_path: Path, values: np.ndarray, codec: Any) -> None:
    path = tmp_path / "a.zarr"
    array = make(path, values, codec=codec, attributes={"layer": "add2", "window": [1, 2]})
    assert shard_rows_of(array) == SHARD
    fill(path, values)
    for start, stop in [(0, ROWS), (0, 1), (3, 9), (8, 16), (21, 22), (5, 5)]:
        assert np.array_equal(read_rows(path, start, stop).view(np.uint16), values[start:stop].view(np.uint16))
    assert read_attributes(path) == {"layer": "add2", "window": [1, 2]}
    assert missing_shards(path) == []
    # Any Zarr v3 reader sees the same.
    assert np.array_equal(zarr.open_array(str(path), mode="r", zarr_format=3)[...], values)


@pytest.mark.parametrize("codec", ["zstd", "none"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(22, 3, 5), (16,), (3, 2)])
def test_a_shard_has_the_bytes_that_zarr_would_write(
    tmp_path: Path, codec: Any, dtype: str, shape: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).integers(0, 9, shape).astype(dtype)
    place, chosen = tmp_path / "ours.zarr", {"codec": codec, "zstd_level": 2, "fill_value": 1}
    theirs = make(tmp_path / "theirs.zarr", values, **chosen)
    make(place, values, **chosen)
    theirs.with_config({"write_empty_chunks": True})[:] = values
    fill(place, values)
    files = [file.relative_to(place) for file in sorted(place.glob("c/**/*")) if file.is_file()]
    assert len(files) == -(-len(values) // SHARD)
    for file in files:
        assert (place / file).read_bytes() == (tmp_path / "theirs.zarr" / file).read_bytes()


def test_rows_out_of_order_in_memory_are_written_in_order(tmp_path: Path) -> None:
    values = np.arange(5 * 3 * SHARD, dtype=np.float32).reshape(5, 3, SHARD).T
    make(tmp_path / "a.zarr", values, codec="none")
    write_shard(tmp_path / "a.zarr", 0, values)
    assert np.array_equal(read_rows(tmp_path / "a.zarr", 0, SHARD), values)


def test_only_whole_shards_are_taken(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "a.zarr"
    make(path, values)
    for first, rows in [(0, 4), (4, 8), (8, 7), (16, 8), (0, 16), (24, 1), (16, 5)]:
        with pytest.raises(ValueError, match="are not one whole shard: shards have 8 rows, the array 22"):
            write_shard(path, first, np.zeros((rows, 3, 5), np.float16))
    with pytest.raises(ValueError, match=r"the block has rows of \(3, 4\) float16, the array of \(3, 5\) float16"):
        write_shard(path, 0, np.zeros((8, 3, 4), np.float16))
    with pytest.raises(ValueError, match=r"\(3, 5\) float32, the array of"):
        write_shard(path, 0, np.zeros((8, 3, 5), np.float32))
    assert missing_shards(path) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"shard_rows \(8\) must be a multiple of chunk_rows \(3\)"):
        make(path, values, chunk_rows=3)


def test_a_shard_of_zeros_is_a_file_too(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "a.zarr"
    make(path, values)
    write_shard(path, 8, np.zeros((8, 3, 5), np.float16))
    assert missing_shards(path) == [0, 2]


def test_writers_of_different_shards_do_not_disturb_each_other(tmp_path: Path) -> None:
    big = np.arange(64 * SHARD * 40, dtype=np.int32).reshape(64 * SHARD, 40)
    path = tmp_path / "a.zarr"
    array = make(path, big, codec="none")
    with ThreadPoolExecutor(8) as pool:
        for first in range(0, len(big), SHARD):
            pool.submit(write_shard, array, first, big[first : first + SHARD])
    assert np.array_equal(read_rows(path, 0, len(big)), big)


@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_a_flipped_bit_is_an_error_not_a_number(tmp_path: Path, values: np.ndarray, codec: Any) -> None:
    path = tmp_path / "a.zarr"
    make(path, values, codec=codec)
    fill(path, values)
    shard = path / "c" / "1" / "0" / "0"
    content = bytearray(shard.read_bytes())
    for position in (20, len(content) // 3):
        spoiled = content.copy()
        spoiled[position] ^= 1
        shard.write_bytes(bytes(spoiled))
        with pytest.raises(RunFolderError, match=r"rows 8 to 16 of .*a.zarr.* cannot be read"):
            read_rows(path, 8, 16)
    assert np.array_equal(read_rows(path, 0, 8), values[:8])


def test_a_shard_that_is_cut_short_is_an_error(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "a.zarr"
    make(path, values, codec="none")
    fill(path, values)
    shard = path / "c" / "0" / "0" / "0"
    whole = shard.read_bytes()
    for content in (b"", whole[:-1], whole[: len(whole) // 2], whole[1:]):
        shard.write_bytes(content)
        with pytest.raises(RunFolderError, match=r"rows 0 to 8 of .*a.zarr.* cannot be read .*checksum is wrong"):
            read_rows(path, 0, 8)


def test_a_missing_shard_is_an_error_not_zeros(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "a.zarr"
    make(path, values)
    fill(path, values)
    (path / "c" / "1" / "0" / "0").unlink()
    for start, stop in [(8, 9), (0, 22), (15, 16), (7, 9)]:
        with pytest.raises(RunFolderError, match=r"shard 1 of .*a.zarr.* is missing: see that its storage is there"):
            read_rows(path, start, stop)
    for start, stop in [(0, 8), (16, 22), (16, 30)]:
        assert np.array_equal(read_rows(path, start, stop), values[start:stop])


def test_shards_that_are_named_empty_read_as_the_fill_value(tmp_path: Path) -> None:
    path, values = tmp_path / "a.zarr", np.arange(ROWS * 6, dtype=np.int32).reshape(ROWS, 2, 3)
    make(path, values, fill_value=-1, filled_shards=[1], attributes={"layer": "add2"})
    assert missing_shards(path) == [1]
    with pytest.raises(RunFolderError, match="shard 1 of"):
        read_rows(path, 0, ROWS)
    assert (read_rows(path, 0, SHARD) == -1).all()
    write_shard(path, SHARD, values[SHARD : 2 * SHARD])
    assert missing_shards(path) == []
    found = read_rows(path, 0, ROWS)
    assert np.array_equal(found[SHARD : 2 * SHARD], values[SHARD : 2 * SHARD])
    assert (found[:SHARD] == -1).all()
    assert (found[2 * SHARD :] == -1).all()
    assert len(list(path.glob("c/*"))) == 1
    assert read_attributes(path) == {"layer": "add2"}, "which shards are filled is the array's own business"


def test_a_missing_array_names_itself(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"array .*none.zarr.* is missing: run the stage that writes it"):
        open_array(tmp_path / "none.zarr")


def test_creating_again_empties_the_array(tmp_path: Path, values: np.ndarray) -> None:
    path = tmp_path / "a.zarr"
    make(path, values)
    fill(path, values)
    make(path, values)
    assert missing_shards(path) == [0, 1, 2]


def test_the_codec_is_chosen_by_what_it_gains() -> None:
    dense = np.random.default_rng(0).standard_normal((100, 8, 8, 32)).astype(np.float16)
    assert choose_codec(dense) == "none"
    assert choose_codec(np.maximum(dense, 0)) == "none", "half of it is zero: shrinks to 1/1.7"
    assert choose_codec(np.maximum(dense - 0.5, 0)) == "zstd", "two thirds: 1/2.5"
    assert choose_codec(dense[:0]) == "zstd"


def test_small_arrays_come_back_with_their_attributes(tmp_path: Path) -> None:
    path = tmp_path / "pair.zarr"
    arrays = {
        "total": np.arange(12, dtype=np.int64).reshape(3, 4),
        "count": np.zeros(0, np.int64),
        "scalar": np.asarray(7),
    }
    write_arrays(path, arrays, attributes={"lower": "add2"})
    back = read_arrays(path)
    assert set(back) == set(arrays)
    for name, values in arrays.items():
        assert back[name].dtype == values.dtype
        assert np.array_equal(back[name], values)
        assert back[name].shape == values.shape
    assert read_attributes(path) == {"lower": "add2"}
    write_arrays(path, {"total": arrays["total"] + 1})
    assert set(read_arrays(path)) == {"total"}


def test_an_unfinished_group_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pair.zarr"
    write_arrays(path, {"total": np.arange(3), "count": np.arange(2)})

    class Killed(Exception):
        pass

    def explode(*_: Any, **__: Any) -> None:
        raise Killed

    # The last step of a writer that is killed never happens.
    monkeypatch.setattr(zarr.Group, "update_attributes", explode)
    with pytest.raises(Killed):
        write_arrays(path, {"total": np.arange(4), "count": np.arange(2)})
    for read in (read_arrays, read_attributes):
        with pytest.raises(RunFolderError, match=r"pair.zarr.* are missing or unfinished: run the stage"):
            read(path)
    with pytest.raises(RunFolderError, match="missing or unfinished"):
        read_arrays(tmp_path / "none.zarr")
    with pytest.raises(RunFolderError, match="is missing: run the stage"):
        read_attributes(tmp_path / "none.zarr")


def test_a_damaged_group_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "pair.zarr"
    write_arrays(path, {"total": np.arange(300)})
    chunk = path / "total" / "c" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    with pytest.raises(RunFolderError, match=r"pair.zarr.* is damaged .*: delete it and run again"):
        read_arrays(path)
