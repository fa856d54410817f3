"""Pictures of a run as its index names them, with size and time, or etag, of their files, compared at every reading."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from workflows.data.crops import parse_crop
from workflows.data.file_states import FileState, fault
from workflows.data.parquet_rows import ParquetRows, parse_row_path, parse_span
from workflows.settings import DataSettings
from workflows.storage.images_table import read_image_rows
from workflows.storage.names import file_path
from workflows.storage.object_store import absolute, files_below, is_uri, look_at

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
        columns = ["path", "file_size", "file_modified", "file_etag"]
        table = read_image_rows(images_table, first, int(max(images)) + 1, columns)
        table = table.take(pa.array([int(image) - first for image in images]))
        if "file_size" not in table.column_names:
            return cls(table["path"].to_pylist(), [None] * len(table))
        known = [table[name].to_pylist() for name in columns[1:] if name in table.column_names]
        states = [None if told[0] is None else FileState(*told) for told in zip(*known, strict=True)]
        return cls(table["path"].to_pylist(), states)


def find_states(settings: DataSettings, paths: Sequence[str]) -> dict[str, pa.Array]:
    """Columns file_size, file_modified and file_etag of the image table, for all paths of an index; null: no file.

    A cell of a Parquet file that names a picture gives the state of that picture, any other that of the Parquet file.

    Raises:
        StorageFault: an object store does not answer.
    """
    files = _files(settings, paths)
    unique = set(files) - {""}
    try:
        states = _listed(settings, unique)
        left = sorted(unique - states.keys())
        with ThreadPoolExecutor(_THREADS) as pool:
            states |= zip(left, pool.map(_state, left, chunksize=64), strict=True)
    except OSError as error:
        raise fault(str(error.filename), error) from None
    known = [states.get(file) for file in files]
    missing = np.array([state is None for state in known], bool)
    values = {
        "file_size": [0 if state is None else state.size for state in known],
        "file_modified": [0 if state is None else state.modified for state in known],
    }
    found = {name: pa.array(np.array(column, np.int64), mask=missing) for name, column in values.items()}
    return found | {"file_etag": pa.array([None if state is None else state.etag for state in known], pa.string())}


def _listed(settings: DataSettings, files: Collection[str]) -> dict[str, FileState | None]:
    """Of pictures that are files of an object store: a listing tells a thousand of them at once."""
    if settings.source not in ("folders", "imagenet"):
        return {}
    roots = (absolute(root) for root in (*settings.folders, *settings.validation, settings.root) if is_uri(root))
    every = (file for root in roots for file in files_below(root))
    return {file.uri: FileState.of(file) for file in every if file.uri in files}


def _files(settings: DataSettings, paths: Sequence[str]) -> list[str]:
    """The file of every picture; empty where there is none."""
    if settings.source in ("folders", "imagenet"):
        return [file_path(path) for path in paths]
    if settings.source == "crops":
        crops = (parse_crop(path) for path in paths)
        return [str(crop if isinstance(crop, Path) else crop.photo) for crop in crops]
    if settings.source not in ("parquet", "tar"):
        return [""] * len(paths)
    spans = [parse_span(path) for path in paths]
    looked_for = [position for position, span in enumerate(spans) if span is None]
    rows = [parse_row_path(paths[position]) for position in looked_for]
    files = ["" if span is None else file_path(span.file) for span in spans]
    for position, (file, _) in zip(looked_for, rows, strict=True):
        files[position] = file_path(file)
    for place, picture in ParquetRows(column=settings.image_column).named(rows):
        files[looked_for[place]] = str(picture)
    return files


def _state(file: str) -> FileState | None:
    try:
        return FileState.of(look_at(file) if is_uri(file) else os.stat(file))
    except OSError as error:
        if is_uri(file) and not isinstance(error, FileNotFoundError):
            raise  # else its pictures would never be compared
        return None
