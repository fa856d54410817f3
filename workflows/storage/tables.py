"""The Parquet tables of a run: the public contract.

Every field states its meaning and its unit in the Parquet schema itself. Columns may be added in any version; one that
is renamed or recoded is read from older runs as it is called now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from workflows.errors import LostFile, RunFolderError
from workflows.storage.atomic import TEMPORARY_SUFFIX, replacing
from workflows.storage.damage import undamaged
from workflows.storage.schemas import ADDED, RECODED, RENAMED, SCHEMAS, SORT_KEYS, schema_markdown

__all__ = [
    "ROW_GROUP",
    "SCHEMAS",
    "SORT_KEYS",
    "Records",
    "read_table",
    "schema_markdown",
    "to_table",
    "write_parts",
    "write_table",
]

ROW_GROUP = 65_536
"""Rows of a row group: the unit that a filter on the sort key skips."""

Filters: TypeAlias = list[tuple[str, str, Any]]
Records: TypeAlias = "pa.Table | Iterable[Mapping[str, Any]] | Mapping[str, Sequence[Any]]"


def write_table(
    path: Path,
    rows: Records,
    table: str | pa.Schema,
    *,
    network: str | None = None,
    sort_by: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
    synced: bool = True,
) -> None:
    """Write a table as one Parquet file (zstd, row groups of 64k rows), whole or not at all.

    Args:
        path: the file; replaced if it is there.
        rows: a table, records, or columns by name. Nullable fields may be left out.
        table: a name of ``SCHEMAS``, or a schema.
        network: fills the `network` column where ``rows`` have none.
        sort_by: stable sort by these columns; None takes the table's own sort key, () keeps the order of ``rows``.
        metadata: added to the file's key-value metadata.
        synced: see ``replacing``.

    Raises:
        ValueError: an unknown column, a required column missing or null, or a value of the wrong type.
    """
    name = table if isinstance(table, str) else path.stem
    schema = SCHEMAS[table] if isinstance(table, str) else table
    content = _conform(rows, schema, name, {} if network is None else {"network": network})
    keys = SORT_KEYS.get(name, ()) if sort_by is None else tuple(sort_by)
    if keys:
        # pyarrow's sort_indices is stable: rows of equal keys keep the order they came in.
        content = content.take(pc.sort_indices(content, sort_keys=[(key, "ascending") for key in keys]))
    if metadata:
        content = content.replace_schema_metadata({**(schema.metadata or {}), **metadata})
    with replacing(path, synced=synced) as temporary:
        pq.write_table(content, temporary, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)


def write_parts(
    path: Path, parts: Iterable[pa.Table], table: str, *, network: str, metadata: Mapping[str, str] | None = None
) -> int:
    """Write a table from parts of ``to_table``, in the order they come, whole or not at all; returns the rows.

    The file is that of ``write_table``, however the rows are cut. Some parts and a row group are in memory, never the
    table.
    """
    schema = SCHEMAS[table].with_metadata({**(SCHEMAS[table].metadata or {}), **(metadata or {})})
    rows = 0
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for group in _row_groups(parts, schema):
            content = _conform(group.drop_columns("network"), schema, table, {"network": network})
            writer.write_table(content, row_group_size=ROW_GROUP)
            rows += len(group)
    return rows


def _row_groups(parts: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of the parts, as many at a time as a row group has; of no rows one group without any."""
    waiting: list[pa.Table] = []
    rows, some = 0, False
    for part in parts:
        waiting.append(part)
        rows += len(part)
        while rows >= ROW_GROUP:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, ROW_GROUP).combine_chunks()
            waiting, rows, some = [joined.slice(ROW_GROUP)], rows - ROW_GROUP, True
    if rows or not some:
        yield pa.concat_tables(waiting or [schema.empty_table()]).combine_chunks()


def to_table(rows: Records, table: str, *, network: str | None = None) -> pa.Table:
    """Rows as Arrow, in the order they come, with the schema of a table; ``network`` as in ``write_table``.

    Raises:
        ValueError: as ``write_table``.
    """
    return _conform(rows, SCHEMAS[table], table, {} if network is None else {"network": network})


def read_table(
    path: Path,
    columns: Sequence[str] | None = None,
    filters: Sequence[tuple[str, str, Any]] | None = None,
) -> pa.Table:
    """Read a table, or some of its columns and rows, by the names and values of this version.

    Args:
        path: the file.
        columns: names; None reads all.
        filters: (column, operator, value) triples that all must hold, as in pyarrow; they skip whole row groups.

    Raises:
        LostFile: the file is missing. RunFolderError: it is damaged.
    """
    try:
        with undamaged(path):
            if path.stem in _CHANGED and _is_older(path):
                return _read_older(path, columns, list(filters or ()))
            return _read(path, columns, list(filters or ()))
    except FileNotFoundError:
        raise LostFile(f"table {str(path)!r} is missing: run the stage that writes it") from None


_CHANGED = RENAMED.keys() | RECODED.keys() | ADDED.keys()


def _read(path: Path, columns: Sequence[str] | None, filters: Filters) -> pa.Table:
    return pq.read_table(
        path,
        columns=None if columns is None else list(columns),
        filters=filters or None,
        partitioning=None,
        page_checksum_verification=True,
    )


def _is_older(path: Path) -> bool:
    """Whether version 0 wrote the table: one of its columns had another name or was not there."""
    names = pq.read_schema(path).names
    renamed, added = RENAMED.get(path.stem, {}), ADDED.get(path.stem, {})
    return bool(renamed.keys() & set(names) or added.keys() - set(names))


def _read_older(path: Path, columns: Sequence[str] | None, filters: Filters) -> pa.Table:
    """A table of version 0. Rows are left out by Parquet where nothing changed, and here by what is changed."""
    name = path.stem
    changed = {*RENAMED.get(name, {}).values(), *RECODED.get(name, {}), *ADDED.get(name, {})}
    here = [triple for triple in filters if triple[0] in changed]
    table = _as_now(_read(path, None, [triple for triple in filters if triple[0] not in changed]), name)
    if here:
        table = table.filter(pq.filters_to_expression(here))
    return table if columns is None else table.select(list(columns))


def _as_now(table: pa.Table, name: str) -> pa.Table:
    renamed = RENAMED.get(name, {})
    table = table.rename_columns([renamed.get(column, column) for column in table.column_names])
    for column, codes in RECODED.get(name, {}).items():
        values = [codes.get(value, value) for value in table[column].to_pylist()]
        table = table.set_column(table.column_names.index(column), column, pa.array(values, pa.string()))
    for column, value in ADDED.get(name, {}).items():
        place = SCHEMAS[name].names.index(column)
        table = table.add_column(place, column, pa.array([value] * len(table), pa.string()))
    return table


def _conform(rows: Records, schema: pa.Schema, name: str, constants: Mapping[str, Any]) -> pa.Table:
    columns = _columns(rows, schema)
    unknown = [column for column in columns if column not in schema.names]
    if unknown:
        raise ValueError(f"table {name}: no such column {', '.join(unknown)}; it has {', '.join(schema.names)}")
    length = len(next(iter(columns.values()))) if columns else 0
    for column in constants.keys() - columns.keys():
        columns[column] = pa.repeat(constants[column], length)
    arrays = [_array(columns, field, length, name) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _columns(rows: Records, schema: pa.Schema) -> dict[str, Any]:
    if isinstance(rows, pa.Table):
        return {column: rows.column(column) for column in rows.column_names}
    if isinstance(rows, Mapping):
        return dict(rows)
    records = list(rows)
    if not records:
        return {field.name: [] for field in schema}
    names = dict.fromkeys(column for record in records for column in record)
    return {column: [record.get(column) for record in records] for column in names}


def _array(columns: Mapping[str, Any], field: pa.Field, length: int, name: str) -> pa.Array | pa.ChunkedArray:
    if field.name not in columns:
        if not field.nullable:
            raise ValueError(f"table {name}: column {field.name} is required")
        return pa.nulls(length, field.type)
    values = columns[field.name]
    try:
        is_arrow = isinstance(values, pa.Array | pa.ChunkedArray)
        array = values.cast(field.type) if is_arrow else pa.array(values, type=field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"table {name}: column {field.name} must be {field.type}: {error}") from None
    if array.null_count and not field.nullable:
        raise ValueError(f"table {name}: column {field.name} must not be null ({array.null_count} rows are)")
    return array


def join_parts(
    path: Path, parts: Sequence[Path], table: str, filters: Sequence[tuple[str, str, Any]] | None = None
) -> int:
    """Write ``path`` from parts that ``write_table`` wrote, in their order, whole or not at all; returns the rows.

    Row groups are full whatever the parts hold, so the file does not depend on how the rows were cut, and some row
    groups are in memory, never the table.

    Args:
        path: the file; replaced if it is there.
        parts: files of the same table, already in the order of its sort key.
        table: a name of ``SCHEMAS``.
        filters: rows to keep, as in ``read_table``; None keeps all.

    Raises:
        RunFolderError: a part is missing or damaged.
    """
    for missing in (part for part in parts if not part.exists()):
        raise RunFolderError(f"table {str(missing)!r} is missing: run the stage that writes it")
    try:
        source = ds.dataset([str(part) for part in parts], SCHEMAS[table], format="parquet")
        chosen = None if filters is None else pq.filters_to_expression(list(filters))
        rows = source.scanner(filter=chosen, batch_size=ROW_GROUP, batch_readahead=2, fragment_readahead=1)
        with replacing(path) as temporary:
            # The writer numbers its files: there is one.
            stem = temporary.name.removesuffix(TEMPORARY_SUFFIX)
            ds.write_dataset(
                rows,
                temporary.parent,
                basename_template=f"{stem}-{{i}}{TEMPORARY_SUFFIX}",
                format="parquet",
                file_options=ds.ParquetFileFormat().make_write_options(compression="zstd", write_page_checksum=True),
                min_rows_per_group=ROW_GROUP,
                max_rows_per_group=ROW_GROUP,
                preserve_order=True,
                existing_data_behavior="overwrite_or_ignore",
            )
            written = temporary.with_name(f"{stem}-0{TEMPORARY_SUFFIX}")
            if written.exists():
                written.rename(temporary)
            else:  # no rows, no file
                pq.write_table(SCHEMAS[table].empty_table(), temporary, compression="zstd", write_page_checksum=True)
            return int(pq.read_metadata(temporary).num_rows)
    except pa.ArrowInvalid as error:
        raise RunFolderError(f"parts of {str(path)!r} are damaged ({error}): delete them and run again") from error
