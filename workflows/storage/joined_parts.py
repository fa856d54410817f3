"""One Parquet table from the files of its parts, a few at a time: for tables too long for memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workflows.storage.atomic import replacing
from workflows.storage.schemas import SCHEMAS
from workflows.storage.tables import ROW_GROUP, read_table


def join_parts(
    path: Path, parts: Sequence[Path], table: str, filters: Sequence[tuple[str, str, Any]] | None = None
) -> int:
    """Write ``path`` from parts that ``write_table`` wrote, in their order, whole or not at all; returns the rows.

    Row groups are full whatever the parts hold, so the file does not depend on how the rows were cut, and no more
    than a row group and one part are in memory.

    Args:
        path: the file; replaced if it is there.
        parts: files of the same table, already in the order of its sort key.
        table: a name of ``SCHEMAS``.
        filters: rows to keep, as in ``read_table``; None keeps all.

    Raises:
        RunFolderError: a part is missing or damaged.
    """
    schema, rows = SCHEMAS[table], 0
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for group in _full_groups((read_table(part, filters=filters) for part in parts), schema):
            writer.write_table(group, row_group_size=ROW_GROUP)
            rows += len(group)
    return rows


def _full_groups(parts: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    waiting = schema.empty_table()
    for part in parts:
        waiting = pa.concat_tables([waiting, part.cast(schema)])
        while len(waiting) >= ROW_GROUP:
            yield waiting.slice(0, ROW_GROUP).combine_chunks()
            waiting = waiting.slice(ROW_GROUP).combine_chunks()
    if len(waiting):
        yield waiting.combine_chunks()
