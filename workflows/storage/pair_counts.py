"""The co-occurrence counts of two layers as one Parquet file, a row for each pair of words that occurs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gmm_ops.graphs.cooccurrence import SparseCounts
from workflows.storage.fields import INT, LONG, field
from workflows.storage.tables import read_table, write_table

SCHEMA = pa.schema(
    [
        field("group", INT, "class", "predicted class of the images"),
        field("upper", INT, "key", "word at a position p of the upper layer"),
        field("lower", INT, "key", "word at a position in the window R(p) of the lower layer"),
        field("count", LONG, "pairs", "such positions in the validation images of the scope"),
    ]
)

FOLD_SCHEMA = SCHEMA.insert(1, field("fold", INT, "", "of the class's images, see ``deal_folds``; from 0"))


def write_pair_counts(path: Path, counts: SparseCounts, attributes: Mapping[str, Any]) -> None:
    """Write the counts, whole or not at all; they are on the disk once the caller has synced the file system.

    Args:
        path: the file.
        counts: rows sorted by group, upper and lower word, as they stay.
        attributes: what else is to be known of the pair of layers, JSON values.
    """
    columns = {name: getattr(counts, name).numpy() for name in SCHEMA.names}
    write_table(path, columns, SCHEMA, sort_by=(), metadata={"pair": json.dumps(dict(attributes))}, synced=False)


def read_pair_counts(path: Path) -> SparseCounts:
    """Counts that ``write_pair_counts`` wrote.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    table = read_table(path)
    return SparseCounts(*(torch.from_numpy(table[name].to_numpy().astype("int64")) for name in SCHEMA.names))


def write_fold_counts(path: Path, counts: SparseCounts, folds: int, attributes: Mapping[str, Any]) -> None:
    """The same for counts by class * folds + fold."""
    columns = {name: getattr(counts, name).numpy() for name in SCHEMA.names}
    columns["group"], columns["fold"] = np.divmod(columns["group"], folds)
    metadata = {"pair": json.dumps(dict(attributes)), "folds": str(folds)}
    write_table(path, columns, FOLD_SCHEMA, sort_by=(), metadata=metadata, synced=False)


def read_fold_counts(path: Path, folds: int) -> SparseCounts:
    """Counts that ``write_fold_counts`` wrote, by class * folds + fold.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    table = read_table(path)
    columns = {name: table[name].to_numpy().astype("int64") for name in FOLD_SCHEMA.names}
    columns["group"] = columns["group"] * folds + columns.pop("fold")
    return SparseCounts(**{name: torch.from_numpy(values) for name, values in columns.items()})
