"""First-order effects of words on single images: a Parquet file for each scope and shard of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from workflows.storage.fields import IMAGE, INT, LAYER, SINGLE, WORD, field
from workflows.storage.tables import read_table, write_table

EffectChange = Literal["shift", "mean"]
"""What columns would say without their words, see ``gmm_ops.trust.column_changes``."""

CHANGES: tuple[EffectChange, ...] = get_args(EffectChange)

SCHEMA = pa.schema(
    [
        LAYER,
        IMAGE,
        WORD,
        field("columns", INT, "columns", "of the image that are the word"),
        field("shift", SINGLE, "logit", "sum over them of g.(mu_w - centre), g the gradient of the predicted class"),
        field("mean", SINGLE, "logit", "sum over them of g.(x - centre)"),
    ]
)


def write_effect_part(path: Path, parts: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Write rows of images of a shard, by layer, image and word; on the disk once the file system is synced.

    Args:
        path: the file.
        parts: columns of rows, those of one layer in order of image and word.
    """
    kinds = dict(zip(SCHEMA.names, SCHEMA.types, strict=True))
    tables = [
        pa.table([pa.array(part[name]).cast(kind) for name, kind in kinds.items()], schema=SCHEMA) for part in parts
    ]
    rows = pa.concat_tables([SCHEMA.empty_table(), *tables])
    write_table(path, rows, SCHEMA, sort_by=("layer", "image"), synced=False)


def read_effect_part(path: Path, layer: str | None = None) -> dict[str, np.ndarray]:
    """Columns of the rows of one layer; None: of all.

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    table = read_table(path, filters=None if layer is None else [("layer", "==", layer)])
    return {name: table[name].to_numpy() for name in SCHEMA.names}
