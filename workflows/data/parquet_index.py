"""Index entries of Parquet shards: labels are read, pictures are not."""

from __future__ import annotations

import glob
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from workflows.data.folders import natural_key
from workflows.data.parquet_rows import absolute, open_shard
from workflows.errors import DataError

_HIGHEST = 2**31 - 1
"""Largest label: the image table has 32 bits for it."""


def shard_files(patterns: Sequence[str], field: str) -> list[str]:
    """Absolute paths of the files that ``data.<field>`` names, in the order given, each pattern's in natural order.

    Raises:
        DataError: no pattern at all, a pattern without a file, or a file named twice.
    """
    if not patterns:
        raise DataError(f"data.{field} is empty; give Parquet files or glob patterns of the {field} images")
    files: list[str] = []
    for pattern in patterns:
        found = sorted(glob.glob(absolute(pattern), recursive=True), key=natural_key)
        if not found:
            raise DataError(f"data.{field}: no file matches {pattern!r}; give existing Parquet files")
        files += found
    repeated = sorted({file for file in files if files.count(file) > 1})
    if repeated:
        raise DataError(f"data.{field} names {repeated[0]!r} twice; every image may occur once")
    return files


def shard_rows(files: Sequence[str]) -> tuple[list[str], Int[np.ndarray, "N"]]:
    """The path ``file#row`` and the label of every row.

    Raises:
        DataError: a file is no shard of pictures or has no row, or a label is no integer of at least 0.
    """
    paths: list[str] = []
    labels: list[np.ndarray] = []
    for file in files:
        column = _labels(file)
        paths += [f"{file}#{row}" for row in range(len(column))]
        labels.append(column)
    return paths, np.concatenate(labels)


def _labels(file: str) -> Int[np.ndarray, "n"]:
    shard = open_shard(file)
    kind = shard.schema_arrow.field("label").type
    if not pa.types.is_integer(kind):
        raise DataError(f"the column label of {file!r} must hold integers (positions of classes), it holds {kind}")
    if shard.metadata.num_rows == 0:
        raise DataError(f"{file!r} has no row; leave it out of data.train and data.validation")
    try:
        column = shard.read(columns=["label"])["label"]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"the column label of {file!r} cannot be read: {error}") from None
    if column.null_count:
        row = np.flatnonzero(column.is_null().to_numpy())[0]
        raise DataError(f"row {row} of {file!r} has no label; every image needs one")
    try:
        labels = column.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise DataError(f"the column label of {file!r} must hold positions of classes: {error}") from None
    if labels.min() < 0:
        row = int(np.argmax(labels < 0))
        raise DataError(f"row {row} of {file!r} has label {labels[row]}; labels must be 0 or above")
    if labels.max() > _HIGHEST:
        row = int(np.argmax(labels > _HIGHEST))
        raise DataError(f"row {row} of {file!r} has label {labels[row]}; labels must be positions of classes")
    return labels
