"""Pictures of a run as its index names them, with size and time of their files, which are compared at every reading."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from workflows.data.crops import parse_crop
from workflows.data.file_states import FileState
from workflows.data.parquet_rows import ParquetRows, parse_row_path
from workflows.settings import DataSettings
from workflows.storage.images_table import read_image_rows
from workflows.storage.names import file_path

_THREADS = 16
"""That ask for files at once: a look at a file on the network is waiting, not work."""


@dataclass(frozen=True)
class IndexedPictures:
    """Pictures of a run as its index names them.

    Attributes:
        paths: of the pictures.
        states: of their files; None where the index knows none: of packaged data sets, of files that were not there,
            and of all in a run of an earlier version.
    """

    paths: list[str]
    states: list[FileState | None]

    @classmethod
    def read(cls, images_table: Path, images: Sequence[int]) -> IndexedPictures:
        """Of some images, in their order; all rows between the first and the last of them are read."""
        if not len(images):
            return cls([], [])
        first = int(min(images))
        columns = ["path", "file_size", "file_modified"]
        table = read_image_rows(images_table, first, int(max(images)) + 1, columns)
        table = table.take(pa.array([int(image) - first for image in images]))
        if "file_size" not in table.column_names:
            return cls(table["path"].to_pylist(), [None] * len(table))
        known = zip(table["file_size"].to_pylist(), table["file_modified"].to_pylist(), strict=True)
        return cls(table["path"].to_pylist(), [None if size is None else FileState(size, at) for size, at in known])


def find_states(settings: DataSettings, paths: Sequence[str]) -> dict[str, pa.Array]:
    """Columns file_size and file_modified of the image table, for all paths of an index; null where there is no file.

    A cell of a Parquet file that names a picture gives the state of that picture, any other that of the Parquet file.
    """
    files = _files(settings, paths)
    unique = sorted(set(files) - {""})
    with ThreadPoolExecutor(_THREADS) as pool:
        states = dict(zip(unique, pool.map(_state, unique, chunksize=64), strict=True))
    known = [states.get(file) for file in files]
    missing = np.array([state is None for state in known], bool)
    values = {
        "file_size": [0 if state is None else state.size for state in known],
        "file_modified": [0 if state is None else state.modified for state in known],
    }
    return {name: pa.array(np.array(column, np.int64), mask=missing) for name, column in values.items()}


def _files(settings: DataSettings, paths: Sequence[str]) -> list[str]:
    """The file of every picture; empty where there is none."""
    if settings.source == "folders":
        return [file_path(path) for path in paths]
    if settings.source == "crops":
        crops = (parse_crop(path) for path in paths)
        return [str(crop if isinstance(crop, Path) else crop.photo) for crop in crops]
    if settings.source != "parquet":
        return [""] * len(paths)
    rows = [parse_row_path(path) for path in paths]
    files = [file_path(file) for file, _ in rows]
    for position, picture in ParquetRows(column=settings.image_column).named(rows):
        files[position] = str(picture)
    return files


def _state(file: str) -> FileState | None:
    try:
        return FileState.of(os.stat(file))
    except OSError:
        return None
