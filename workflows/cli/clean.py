"""``inference-graphs clean``: free what takes room and can be made again."""

from __future__ import annotations

from typing import Annotated

import typer

from workflows.cli.options import AsJson, Folder, console, print_json
from workflows.errors import SettingsError
from workflows.pipeline import columns_sizes, free_columns
from workflows.report.numbers import duration, size
from workflows.storage.run_folder import RunFolder


def clean(
    folder: Folder,
    columns: Annotated[bool, typer.Option("--columns", help="Stored columns: activations/, predictions/.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be freed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Free the large arrays of a finished run; graphs, tables, word maps, dictionaries and figures stay.

    Looking at the run, and studies that run the network again, work as before. What reads stored columns (another
    scope, sweep) says that they are gone; the command of the run with --restore-columns extracts them again.

    Examples:

        inference-graphs clean runs/digits --columns --dry-run

        inference-graphs clean runs/digits --columns --yes
    """
    if not columns:
        raise SettingsError("clean: must be told what to free, got nothing; give --columns")
    run, out = RunFolder.open(folder), console(stderr=as_json)
    with run.lock():
        sizes, took = columns_sizes(run), run.ledger("extract").seconds
        for name, held in sizes.items():
            out.print(f"{name}/  {size(held)}", highlight=False)
        total = sum(sizes.values())
        out.print(f"{size(total)} in all; the extraction took {duration(took)}", highlight=False, soft_wrap=True)
        freed = bool(sizes) and not dry_run
        if freed:
            if not yes:
                typer.confirm("Free them?", abort=True, err=True)
            free_columns(run)
            out.print("freed; the command of the run with --restore-columns brings them back", soft_wrap=True)
    if as_json:
        print_json({"run": str(run.root), "bytes": sizes, "freed": freed, "seconds_to_restore": round(took, 3)})
