"""``inference-graphs report``: a site that opens from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from workflows.cli.options import Folder, console


def report(
    folder: Folder,
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class", metavar="NAME", help="Only graphs of this class and of its images; may be repeated. Name or id."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the site; default: site in the run folder.")] = None,
    beside: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A second run, to compare graphs with: its words are matched.")
    ] = None,
    criterion: Annotated[
        str | None, typer.Option(help="What the words of its graphs are chosen by: likelihood or effect.")
    ] = None,
) -> None:
    """Write a report site: overview, graphs, words, comparisons and paths, to be opened from disk in a browser.

    Nothing is loaded from a network. A site that is there is replaced; a folder that holds other files is refused. Of a
    run that is not finished the site shows what is there and names what is missing.

    Examples:

        inference-graphs report runs/digits

        inference-graphs report runs/animals-resnet50 --class zebra --class tiger --out zebra-tiger

        inference-graphs report runs/digits --beside runs/digits-later

        inference-graphs report runs/digits --criterion effect --out by-effect
    """
    from workflows.figures.site_build import build_site
    from workflows.report.numbers import size
    from workflows.run import open_run

    run = open_run(folder)
    other = None if beside is None else open_run(beside)
    place = (out or run.folder.root / "site").expanduser().absolute()
    built = build_site(run, place, class_ or (), other, criterion or "")
    told = console()
    for what, why in built.missing:
        told.print(f"not shown: {escape(what)} ({escape(why)})", highlight=False, soft_wrap=True)
    told.print(
        f"{built.graphs:,} graphs, {built.words:,} words, {built.files:,} chunks of {size(built.bytes)}",
        highlight=False,
    )
    told.print(f"open {escape(str(built.index))}", highlight=False, soft_wrap=True)
