"""Zarr v3 arrays, sharded along the first axis; one work item writes one whole shard, and may be run twice.

Rows are images (or stored columns). Two writers in one shard lose rows without a word, so ``write_shard`` takes only
blocks that are exactly one shard. A shard in which everything is the fill value is written all the same, so a missing
file can only mean a missing shard, or one that the array names as empty. Every stored chunk has a checksum: a flipped
bit is an error, never a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from workflows.errors import LostFile, RunFolderError, StorageFault, system_words
from workflows.phases import phase
from workflows.storage.atomic import full_disk_in_words, replacing
from workflows.storage.shard_files import Rows, encoded_shard, read_shard, shard_rows_of

Codec = Literal["zstd", "none"]

_NAMES = "arrays"
"""Attribute that lists a group's arrays; written last, so it stands for a whole group."""

_FILLED = "filled_shards"
"""Attribute that lists the shards that are written; the others read as the fill value. Absent: all are written."""

_WORTHWHILE = 2.0
"""Compression ratio from which zstd pays for its time.

A second of processor saves 100 MB where columns shrink to 1/1.4 (ReLUs of ResNet-20), 180 MB at 1/2.1 and 310 MB at 1/4
(the upper ones of ResNet-50); below 2 most disks write that much in this time, and every read costs twice as much.
"""

_SAMPLE_BYTES = 1 << 24


def create_array(
    path: Path,
    shape: Sequence[int],
    dtype: str | np.dtype[Any],
    *,
    chunk_rows: int,
    shard_rows: int,
    codec: Codec = "zstd",
    zstd_level: int = 3,
    attributes: Mapping[str, Any] | None = None,
    fill_value: int = 0,
    filled_shards: Sequence[int] | None = None,
) -> zarr.Array[Any]:
    """Preallocate an array in the driver, before any worker writes. An array that is already there is replaced.

    Args:
        path: folder of the array, ending in ``.zarr``.
        shape: rows first; all other axes lie in one chunk.
        dtype: of the elements.
        chunk_rows: rows of the smallest unit of reading; divides ``shard_rows``.
        shard_rows: rows of one shard, which is one file and one work item.
        codec: ``zstd`` with checksum, or ``none``: uncompressed with crc32c.
        zstd_level: 1 (fast) to 22.
        attributes: stored with the array, JSON values.
        fill_value: of every element that is not written.
        filled_shards: indices of the shards that will be written, the others stay empty; None: all.

    Raises:
        ValueError: ``chunk_rows`` does not divide ``shard_rows``.
    """
    if chunk_rows < 1 or shard_rows % chunk_rows:
        raise ValueError(f"shard_rows ({shard_rows}) must be a multiple of chunk_rows ({chunk_rows})")
    rows, *rest = (int(extent) for extent in shape)
    compressor = ZstdCodec(level=zstd_level, checksum=True) if codec == "zstd" else Crc32cCodec()
    with full_disk_in_words(path):
        return zarr.create_array(
            store=str(path),
            shape=(rows, *rest),
            shards=(shard_rows, *rest),
            chunks=(chunk_rows, *rest),
            dtype=dtype,
            compressors=[compressor],
            fill_value=fill_value,
            attributes={**(attributes or {}), **({} if filled_shards is None else {_FILLED: list(filled_shards)})},
            config={"write_empty_chunks": True},
            overwrite=True,
        )


def array_exists(path: Path) -> bool:
    """Whether ``create_array`` has finished here; a killed driver may leave a folder without metadata."""
    return (path / "zarr.json").exists()


def open_array(path: Path) -> zarr.Array[Any]:
    """Open an array for reading and for ``write_shard``.

    Raises:
        RunFolderError: there is no array at ``path``.
    """
    try:
        # open_array takes a config too, and ignores it for an array that exists (zarr 3.1.6).
        return zarr.open_array(store=str(path), mode="r+").with_config({"write_empty_chunks": True})
    except FileNotFoundError:
        raise LostFile(f"array {str(path)!r} is missing: run the stage that writes it") from None


@phase("write")
def write_shard(target: Path | zarr.Array[Any], first_row: int, block: Rows) -> None:
    """Write one whole shard; the file appears at once or not at all.

    Args:
        target: the array or its path (open it once when writing many shards).
        first_row: a multiple of the array's shard rows.
        block: all rows of that shard (fewer only in the last one), in the array's dtype.

    Raises:
        ValueError: the block is not exactly one shard, or has another shape or dtype than the array.
    """
    array = target if isinstance(target, zarr.Array) else open_array(target)
    size = shard_rows_of(array)
    expected = min(size, array.shape[0] - first_row)
    if first_row % size or expected <= 0 or block.shape[0] != expected:
        raise ValueError(
            f"rows {first_row} to {first_row + block.shape[0]} are not one whole shard: "
            f"shards have {size} rows, the array {array.shape[0]}"
        )
    if block.shape[1:] != array.shape[1:] or block.dtype != array.dtype:
        raise ValueError(
            f"the block has rows of {block.shape[1:]} {block.dtype}, the array of {array.shape[1:]} {array.dtype}"
        )
    with replacing(_shard_file(array, first_row // size), synced=False) as temporary, temporary.open("wb") as file:
        file.writelines(encoded_shard(array, block))


@phase("read")
def read_rows(source: Path | zarr.Array[Any], start: int, stop: int) -> Rows:
    """Rows ``start`` to ``stop`` (exclusive) as a new array; fast when they are whole chunks.

    Raises:
        LostFile: the array or one of these shards is missing (Zarr itself would read zeros). StorageFault: it cannot be
            read just now. RunFolderError: a chunk's checksum is wrong.
    """
    array = source if isinstance(source, zarr.Array) else open_array(source)
    size, stop = shard_rows_of(array), min(stop, array.shape[0])
    shards = range(start // size, -(-stop // size)) if start < stop else range(0)
    filled = set(_filled(array, shards))
    found = np.empty((max(0, stop - start), *array.shape[1:]), array.dtype)
    try:
        for index in shards:
            first, end = max(start, index * size), min(stop, (index + 1) * size)
            part = found[first - start : end - start]
            if index in filled:
                read_shard(array, _shard_file(array, index), first - index * size, part)
            else:
                part[...] = array.fill_value
    except FileNotFoundError:
        raise LostFile(
            f"shard {index} of {_place(array)!r} is missing: see that its storage is there, then run again, which "
            "makes what is lost"
        ) from None
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, which says nothing of the content
            raise StorageFault(system_words(error)) from None
        raise RunFolderError(
            f"rows {start} to {stop} of {_place(array)!r} cannot be read ({error}): "
            "delete that array and the ledger of its stage, then run again"
        ) from error
    return found


def missing_shards(path: Path) -> list[int]:
    """Indices of the shards that were never written, but should be."""
    array = open_array(path)
    count = -(-array.shape[0] // shard_rows_of(array))
    return [index for index in _filled(array, range(count)) if not _shard_file(array, index).exists()]


def choose_codec(sample: Rows, zstd_level: int = 1) -> Codec:
    """``zstd`` if it shrinks the sample by a factor that pays for its time, else ``none``."""
    if sample.size == 0:
        return "zstd"
    raw = np.ascontiguousarray(sample).reshape(-1).view(np.uint8)[:_SAMPLE_BYTES]
    packed = pa.Codec("zstd", compression_level=zstd_level).compress(pa.py_buffer(raw))
    return "zstd" if raw.nbytes / packed.size >= _WORTHWHILE else "none"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any] | None = None) -> None:
    """Write a group of small arrays, one chunk each, replacing what was there.

    The group counts only once all arrays are written: ``read_arrays`` refuses one whose writer was killed.
    """
    with full_disk_in_words(path):
        group = zarr.create_group(store=str(path), overwrite=True)
        for name, values in arrays.items():
            group.create_array(
                name=name,
                data=np.asarray(values, order="C"),
                chunks=tuple(max(1, extent) for extent in values.shape),
                compressors=[ZstdCodec(level=3, checksum=True)],
                config={"write_empty_chunks": True},
            )
        group.update_attributes({**(attributes or {}), _NAMES: list(arrays)})


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a group that ``write_arrays`` wrote, in their order.

    Raises:
        RunFolderError: the group is missing, unfinished or damaged.
    """
    group = _open_group(path)
    names = cast(list[str], group.attrs[_NAMES])
    try:
        return {name: np.asarray(cast("zarr.Array[Any]", group[name])[...]) for name in names}
    except (KeyError, ValueError, RuntimeError, OSError) as error:
        raise RunFolderError(f"{str(path)!r} is damaged ({error}): delete it and run again") from error


def read_attributes(path: Path) -> dict[str, Any]:
    """Attributes of an array, or of a group that ``write_arrays`` wrote.

    Raises:
        RunFolderError: nothing is there, or an unfinished group.
    """
    try:
        found = zarr.open(store=str(path), mode="r")
    except FileNotFoundError:
        raise RunFolderError(f"array {str(path)!r} is missing: run the stage that writes it") from None
    attributes = dict((_open_group(path) if isinstance(found, zarr.Group) else found).attrs)
    return {name: value for name, value in attributes.items() if name not in (_NAMES, _FILLED)}


def _open_group(path: Path) -> zarr.Group:
    try:
        group = zarr.open_group(store=str(path), mode="r")
    except FileNotFoundError:
        group = None
    if group is None or _NAMES not in group.attrs:
        raise RunFolderError(f"arrays {str(path)!r} are missing or unfinished: run the stage that writes them")
    return group


def _filled(array: zarr.Array[Any], shards: range) -> list[int]:
    listed = array.attrs.get(_FILLED)
    return list(shards) if listed is None else sorted(set(shards) & set(cast(list[int], listed)))


def _shard_file(array: zarr.Array[Any], index: int) -> Path:
    return Path(_place(array)) / "/".join(["c", str(index), *["0"] * (array.ndim - 1)])


def _place(array: zarr.Array[Any]) -> str:
    return str(array.store_path).removeprefix("file://")
