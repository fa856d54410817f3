"""``inference-graphs query``: SQL over the tables of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from workflows.cli.options import Folder, console
from workflows.errors import RunError
from workflows.queries.limits import SECONDS

if TYPE_CHECKING:
    import pyarrow as pa

    from workflows.storage.run_folder import RunFolder

Format = Literal["table", "csv", "json", "parquet"]


def query(
    folder: Folder,
    sql: Annotated[
        str | None, typer.Argument(help="One statement, in DuckDB's SQL; - reads it from the input.")
    ] = None,
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="How rows are given; default: a table, or by the ending of --out."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the rows into this file instead.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows that a table shows; the other formats have all.")] = 100,
    seconds: Annotated[int, typer.Option(min=1, help="That the statement may take.")] = SECONDS,
    schema: Annotated[bool, typer.Option("--schema", help="The tables of this run: columns, units, meanings.")] = False,
    examples: Annotated[bool, typer.Option("--examples", help="Ten questions and their SQL.")] = False,
    example: Annotated[int | None, typer.Option(min=1, max=10, help="Ask the question of this number.")] = None,
) -> None:
    """Ask the tables of a run by SQL.

    Every table is there by its name: nodes, edges, words, exemplars, images, pairs, ... The statement can read these
    tables and nothing else, writes nothing, and has limits of time and memory.

    Examples:

        inference-graphs query runs/digits "SELECT layer, count(*) FROM nodes GROUP BY ALL"

        inference-graphs query runs/digits --examples

        inference-graphs query runs/digits --example 8

        inference-graphs query runs/digits --schema

        inference-graphs query runs/digits "SELECT * FROM edges" --format parquet --out edges.parquet
    """
    if [sql is not None, schema, examples, example is not None].count(True) != 1:
        raise RunError("query: give one of a statement, --schema, --examples and --example N")
    if format_ is None:
        format_ = "table" if out is None else _format_of(out)
    if format_ == "table" and out is not None:
        raise RunError("query: --format table is for the terminal: give --format csv, json or parquet with --out")
    if format_ == "parquet" and out is None:
        raise RunError("query: --format parquet needs a file to write: give --out FILE")
    from workflows.storage.run_folder import RunFolder

    opened = RunFolder.open(folder)
    if schema:
        _print_schema(opened)
    elif examples:
        _print_examples()
    else:
        _ask(opened, _statement(sql, example), format_, out, rows, seconds)


def _format_of(out: Path) -> Format:
    endings: dict[str, Format] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
    if out.suffix not in endings:
        raise RunError(f"query: --out must end in .csv, .json or .parquet, or have a --format; got {str(out)!r}")
    return endings[out.suffix]


def _statement(sql: str | None, example: int | None) -> str:
    if example is not None:
        from workflows.queries.examples import EXAMPLES

        return EXAMPLES[example - 1].sql
    assert sql is not None
    return sys.stdin.read() if sql == "-" else sql


def _ask(folder: RunFolder, sql: str, format_: Format, out: Path | None, rows: int, seconds: int) -> None:
    from workflows.queries import asking_sql, printing

    with asking_sql.query(folder, sql, seconds) as reader:
        if format_ == "table" and out is None:
            _print_rows(reader, rows)
        else:
            printing.write_rows(reader, format_, out)


def _print_rows(reader: pa.RecordBatchReader, most: int) -> None:
    from workflows.queries.printing import first_rows, rows_table

    shown, total = first_rows(reader, most)
    out = console()
    out.print(rows_table(shown))
    more = f", {len(shown)} of them shown: --rows {total} shows all" if total > len(shown) else ""
    out.print(f"{total} row{'s' * (total != 1)}{more}", highlight=False)


def _print_schema(folder: RunFolder) -> None:
    from workflows.queries.asking_sql import tables_of
    from workflows.queries.printing import schema_table

    for name, path in tables_of(folder).items():
        console().print(schema_table(name, Path(path)))


def _print_examples() -> None:
    from workflows.queries.examples import EXAMPLES

    for number, one in enumerate(EXAMPLES, start=1):
        console().print(f"-- {number}. {one.question}\n{one.sql};\n", markup=False, highlight=False, soft_wrap=True)
