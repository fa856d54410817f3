"""Index entries of Parquet files: labels are read, pictures are not."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from workflows.data.file_states import fault
from workflows.data.folders import natural_key
from workflows.data.parquet_columns import image_column, is_text_label, label_column, open_parquet
from workflows.data.parquet_rows import ParquetRows
from workflows.errors import DataError
from workflows.storage.names import stored_path
from workflows.storage.object_store import absolute, is_uri, matching

FILES_AT_ONCE = 8
"""In an object store, where one file alone does not fill the line."""

_HIGHEST = 10**6 - 1
"""Largest label. Labels are positions of classes, every one of which is named: a hash would take all memory."""


@dataclass(frozen=True)
class LabelledRows:
    """Path and label of every row of some files.

    Attributes:
        paths: ``file#row``.
        labels: int64; positions of classes in ``names``, if there are any.
        names: of the classes in label order: from the metadata, or, where the labels are texts, these, sorted.
        as_texts: whether labels are texts.
    """

    paths: list[str]
    labels: Int[np.ndarray, "N"]
    names: tuple[str, ...] | None
    as_texts: bool


def files_of_patterns(patterns: Sequence[str], field: str, kind: str = "Parquet") -> list[str]:
    """Absolute paths or URIs of the files that ``data.<field>`` names; each pattern's in natural order.

    Raises:
        DataError: no pattern at all, a pattern without a file, or a file named twice.
        OSError: an object store does not answer.
    """
    if not patterns:
        raise DataError(f"data.{field} is empty; give {kind} files or glob patterns of the {field} images")
    files: list[str] = []
    for pattern in patterns:
        found = sorted(matching(absolute(pattern)), key=natural_key)
        if not found:
            raise DataError(f"data.{field}: no file matches {pattern!r}; give existing {kind} files")
        files += [stored_path(file) for file in found]
    repeated = sorted({file for file in files if files.count(file) > 1})
    if repeated:
        raise DataError(f"data.{field} names {repeated[0]!r} twice; every image may occur once")
    return files


def labelled_rows(files: Sequence[str], images: str = "", labels: str = "") -> LabelledRows:
    """List the rows of all files, which have the same classes.

    Args:
        files: as ``files_of_patterns`` gives them.
        images: ``data.image_column``; empty: the file tells.
        labels: ``data.label_column``; empty: the file tells.

    Raises:
        DataError: a file has no pictures, labels or rows, a label is missing, or names no class; or two files have
            different classes.
    """
    with ThreadPoolExecutor(FILES_AT_ONCE if any(map(is_uri, files)) else 1) as pool:
        found = list(pool.map(lambda file: _rows_of_file(file, images, labels), files))
    for file, rows in zip(files, found, strict=True):
        if rows.as_texts != found[0].as_texts:
            raise DataError(f"{files[0]!r} and {file!r}: labels must be of one kind, got texts and numbers; use one")
    paths = [path for rows in found for path in rows.paths]
    if found[0].as_texts:
        names = tuple(sorted({name for rows in found for name in rows.names or ()}))
        positions = [np.array([names.index(name) for name in rows.names or ()])[rows.labels] for rows in found]
        return LabelledRows(paths, np.concatenate(positions), names, True)
    named = [(file, rows.names) for file, rows in zip(files, found, strict=True) if rows.names]
    for file, own in named:
        if own != named[0][1]:
            raise DataError(f"the metadata of {named[0][0]!r} and {file!r} name other classes, or in another order")
    return LabelledRows(paths, np.concatenate([rows.labels for rows in found]), named[0][1] if named else None, False)


def _rows_of_file(file: str, images: str, labels: str) -> LabelledRows:
    opened = open_parquet(file)
    schema = opened.schema_arrow
    image_column(schema, file, images)
    column = label_column(schema, file, labels)
    kind = schema.field(column.name).type
    texts = is_text_label(kind)
    if not texts and not pa.types.is_integer(kind):
        raise DataError(
            f"the column {column.name} of {file!r} must hold integers (positions of classes) or names, it holds {kind}"
        )
    if opened.metadata.num_rows == 0:
        raise DataError(f"{file!r} has no row; leave it out of data.train and data.validation")
    try:
        cells = opened.read(columns=[column.name])[column.name]
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # without a number, Arrow means what the file holds
            raise fault(file, error) from None
        raise DataError(f"the column {column.name} of {file!r} cannot be read: {error}") from None
    if cells.null_count:
        row = np.flatnonzero(cells.is_null().to_numpy())[0]
        raise DataError(f"row {row} of {file!r} has no label; every image needs one")
    # Else every actor would walk the pages of every file it touches, through the network.
    paths = (
        list(ParquetRows(column=images).placed(file))
        if is_uri(file)
        else [f"{file}#{row}" for row in range(len(cells))]
    )
    if texts:
        names, positions = np.unique(np.array(cells.cast(pa.string()).to_pylist(), dtype=object), return_inverse=True)
        return LabelledRows(paths, positions.astype(np.int64), tuple(map(str, names)), True)
    return LabelledRows(paths, _positions(cells, column.name, file), column.class_names, False)


def _positions(cells: pa.ChunkedArray, column: str, file: str) -> Int[np.ndarray, "n"]:
    try:
        labels: np.ndarray = cells.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise DataError(f"the column {column} of {file!r} must hold positions of classes: {error}") from None
    if labels.min() < 0:
        row = int(np.argmax(labels < 0))
        raise DataError(f"row {row} of {file!r} has label {labels[row]}; labels must be 0 or above")
    if labels.max() > _HIGHEST:
        row = int(np.argmax(labels > _HIGHEST))
        raise DataError(
            f"row {row} of {file!r} has label {labels[row]}; labels must be positions of classes, "
            f"{_HIGHEST} at most: number the classes from 0, or give them as texts"
        )
    return labels
