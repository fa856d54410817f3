"""Whether artefacts are whole, by their footers and checksums: what ``run --verify`` looks at."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from workflows.errors import RunFolderError, StorageFault, system_words
from workflows.storage.arrays import missing_shards, open_array, read_arrays, read_rows
from workflows.storage.shard_files import shard_rows_of


def damage(path: Path) -> Collection[int] | None:
    """None of an artefact that is whole; else the indices of the damaged shards of an array, nothing of all others.

    Every chunk of an array is read and compared with its checksum, every page of a Parquet file, and every member of a
    zip file (npz, pt); any other file must not be empty.

    Raises:
        StorageFault: it could not be read, which says nothing of what it holds.
    """
    try:
        if path.suffix == ".zarr":
            return _of_zarr(path)
        if path.suffix == ".parquet":
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for _ in file.iter_batches():
                    pass
        elif path.suffix in (".npz", ".pt"):
            with zipfile.ZipFile(path) as archive:
                return None if archive.testzip() is None else ()
        return None if path.stat().st_size else ()
    except (pa.ArrowException, zipfile.BadZipFile, RunFolderError, EOFError, FileNotFoundError):
        return ()
    except OSError as error:
        if error.errno is None:  # a parser's, such as Arrow's of a footer
            return ()
        raise StorageFault(f"{str(path)!r} cannot be read ({system_words(error)})") from None


def _of_zarr(path: Path) -> Collection[int] | None:
    if not (path / "c").is_dir():  # a group of small arrays
        read_arrays(path)
        return None
    array = open_array(path)
    rows, missing = shard_rows_of(array), set(missing_shards(path))
    damaged = set(missing)
    for index in range(-(-array.shape[0] // rows)):
        try:
            if index not in missing:
                read_rows(array, index * rows, (index + 1) * rows)
        except RunFolderError:
            damaged.add(index)
    return sorted(damaged) or None
