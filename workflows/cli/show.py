"""``inference-graphs show``: the path of an image, a graph as a table, and where the figures are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from workflows.cli.options import AsJson, Folder, console, print_json
from workflows.errors import DataError, RunError, RunFolderError
from workflows.storage.names import JOINT, GraphId

if TYPE_CHECKING:
    from workflows.run import Run


def show(
    folder: Folder,
    class_: Annotated[str | None, typer.Option("--class", help="Name or id of a class.")] = None,
    image: Annotated[int | None, typer.Option(help="Id of an image (a row of images.parquet).")] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="Whose words explain it: joint, class-<id> or list-<name>; default: joint, or its own."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The inference graph of a class or of an image as a table, and where its figure is.

    A run with a hidden Markov model prints the image's path first: words, runners-up and by how much they lost.

    Examples:

        inference-graphs show runs/digits --class 3

        inference-graphs show runs/cifar10-resnet20 --class horse

        inference-graphs show runs/cifar10-resnet20 --image 20015

        inference-graphs show runs/cifar10-resnet20 --class horse --scope class-7

        inference-graphs show runs/cifar10-mlp --image 20015

        inference-graphs show runs/digits --class 3 --json

    Which images have a graph is the preset's mine.images; by default the misclassified validation images.
    """
    if (class_ is None) == (image is None):
        raise RunError("show: give either --class NAME or --image ID")
    from workflows.run import open_run

    run = open_run(folder)
    graph = str(GraphId("image", image)) if image is not None else f"class:{class_}"  # by name or id
    try:
        if as_json:
            print_json(graph_content(run, graph, scope))
        else:
            show_graph(run, graph, console(), scope)
    except DataError as error:
        raise DataError(f"--{error}") from None  # what Run calls class, image and scope are options here


def show_graph(run: Run, graph: str, out: Console, scope: str | None = None) -> None:
    """Print the graph of a class or of an image, and where its figure is.

    In a run with a hidden Markov model an image has its path printed first, and need not have a graph.

    Args:
        run: it is in.
        graph: ``class:<id>`` or ``image:<id>``.
        out: where to.
        scope: whose dictionaries explain it; None: see ``Run.scope_of``.

    Raises:
        DataError: there is no such class, image or scope.
        RunFolderError: the run has no such graph or path, or none yet; or none of its scopes has the graph.
    """
    graph = run.graph_id(graph)
    found = run.scope_of(graph, scope)
    explained = GraphId.parse(graph)
    if run.settings.hmm is not None and explained.is_image:
        _show_path(run, explained.number, out)
        if not run.folder.table("nodes").exists() or graph not in run.graphs(found):
            return
        out.print()
    _refuse_absent(run, graph, found)
    _show_table(run, graph, found, out)


def graph_content(run: Run, graph: str, scope: str | None = None) -> dict[str, Any]:
    """The same graph for programs: rows of the nodes and edges tables, and of an image its row of images.parquet."""
    from dataclasses import asdict

    graph = run.graph_id(graph)
    found = run.scope_of(graph, scope)
    _refuse_absent(run, graph, found)
    wanted = [("graph", "=", graph), ("scope", "=", found)]
    explained = GraphId.parse(graph)
    of_image = {"image": asdict(run.image(explained.number))} if explained.is_image else {}
    figure = run.folder.figure(graph, "png", found)
    return {
        "graph": graph,
        "scope": found,
        "network": run.settings.name,
        **of_image,
        "nodes": run.table("nodes", filters=wanted).to_pylist(),
        "edges": run.table("edges", filters=wanted).to_pylist(),
        "figure": str(figure) if figure.exists() else None,
    }


def _show_path(run: Run, image: int, out: Console) -> None:
    from workflows.report.path_table import path_table
    from workflows.report.path_views import build_path_view, read_path_tables, read_word_names

    titles = {layer.name: layer.given for layer in run.plan.layers}
    names = read_word_names(run.folder, titles, run.plan.class_names, JOINT)
    tables = read_path_tables(run.folder, image, JOINT)
    out.print(path_table(build_path_view(tables, image, names, scope=JOINT, network=run.settings.name)))
    figure = run.folder.figure(f"path:{image}", "png")
    if figure.exists():
        _print_figure(figure, out)


def _show_table(run: Run, graph: str, scope: str, out: Console) -> None:
    from workflows.report.terminal import graph_table
    from workflows.report.view_tables import GraphTables, build_graph_view, concepts_of

    explained = GraphId.parse(graph)
    wanted = [("graph", "=", graph), ("scope", "=", scope)]
    tables = GraphTables(
        nodes=run.table("nodes", filters=wanted),
        edges=run.table("edges", filters=wanted),
        exemplars=run.table("exemplars", filters=[("scope", "=", scope), ("rank", "=", 0)]),
        images=run.table("images", filters=[("image", "=", explained.number)]) if explained.is_image else None,
        concepts=concepts_of(run.folder, scope),
    )
    view = build_graph_view(
        tables,
        graph,
        scope=scope,
        network=run.settings.name,
        class_names=run.plan.class_names,
        exemplars=1,
        layer_titles={layer.name: layer.given for layer in run.plan.layers},
        code_edges=run.settings.draw.code_edges,
    )
    out.print(graph_table(view))
    _print_figure(run.folder.figure(graph, "png", scope), out)


def _print_figure(figure: Path, out: Console) -> None:
    text = str(figure) if figure.exists() else f"{figure} (not drawn yet: run the draw stage)"
    out.print(f"figure {escape(text)}", highlight=False, soft_wrap=True)


def _refuse_absent(run: Run, graph: str, scope: str) -> None:
    known = run.graphs(scope)
    if graph in known:
        return
    explained = GraphId.parse(graph)
    where = "the run" if scope == JOINT else f"scope {scope} of the run"
    others = [other.number for other in map(GraphId.parse, known) if other.kind == explained.kind]
    if not explained.is_image:
        names = ", ".join(run.classes()[other] for other in others[:10]) or "none"
        raise RunFolderError(
            f"{where} has no graph of class {run.classes()[explained.number]!r} (it has: {names}); "
            "run it again with --set mine.classes=[...]"
        )
    shown = ", ".join(map(str, others[:10])) + (f" and {len(others) - 10} more" if len(others) > 10 else "") or "none"
    raise RunFolderError(
        f"{where} has no graph of image {explained.number} (it has: {shown}); run it again with --set mine.images=[...]"
    )
