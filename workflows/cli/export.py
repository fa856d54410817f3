"""``inference-graphs export``: a graph as a file for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from workflows.cli.options import Folder, console
from workflows.errors import DataError, RunError

Format = Literal["graphml", "gexf", "json", "cytoscape", "dot"]

ENDINGS = {"cytoscape": "cyjs"}


def export(
    folder: Folder,
    class_: Annotated[str | None, typer.Option("--class", help="Name or id of a class.")] = None,
    image: Annotated[int | None, typer.Option(help="Id of an image (a row of images.parquet).")] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="graphml, gexf (Gephi), json (node-link), cytoscape, dot (Graphviz).")
    ] = "graphml",
    out: Annotated[
        Path | None, typer.Option(help="File; default: class-3.graphml and the like, in the current folder.")
    ] = None,
    scope: Annotated[str | None, typer.Option(help="Whose words explain it; default: joint, or its own.")] = None,
    criterion: Annotated[
        str | None, typer.Option(help="What its words are chosen by: likelihood or effect; default: the first.")
    ] = None,
) -> None:
    """Write the inference graph of a class or of an image as a file for another program.

    Nodes are called layer:word and carry what the table nodes says of them; edges what the table edges says. Names in
    labels.csv of the run folder become part of the labels.

    Examples:

        inference-graphs export runs/digits --class 3

        inference-graphs export runs/digits --class 3 --format dot --out three.dot

        inference-graphs export runs/cifar10-resnet20 --image 20015 --format cytoscape
    """
    if (class_ is None) == (image is None):
        raise RunError("export: give one of --class NAME and --image ID")
    from workflows.exports import export_graph
    from workflows.run import open_run
    from workflows.storage.graphs import graph_item

    run = open_run(folder)
    try:
        graph = run.graph_id(f"class:{class_}" if image is None else f"image:{image}")
        found, criterion = run.scope_of(graph, scope), run.criterion(criterion)
    except DataError as error:
        raise DataError(f"--{error}") from None
    name = graph_item(graph, criterion).replace(":", "-")
    path = out or Path(f"{name}.{ENDINGS.get(format_, format_)}")
    export_graph(run.graph(graph, found, criterion), format_, path, run.word_names(found))
    console().print(f"{escape(graph)} of scope {escape(found)} -> {escape(str(path))}", highlight=False)
