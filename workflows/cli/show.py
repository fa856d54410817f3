"""``inference-graphs show``: a graph, a path, a unit or a word as a table, and where the figures are."""

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
    from workflows.report.criteria import LayerComparison
    from workflows.run import Run


def show(
    folder: Folder,
    class_: Annotated[str | None, typer.Option("--class", help="Name or id of a class.")] = None,
    image: Annotated[int | None, typer.Option(help="Id of an image (a row of images.parquet).")] = None,
    unit: Annotated[str | None, typer.Option(metavar="LAYER:UNIT", help="A unit, in a run that is dissected.")] = None,
    word: Annotated[str | None, typer.Option(metavar="LAYER:WORD", help="A word, in a run that is dissected.")] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="Whose words explain it: joint, class-<id> or list-<name>; default: joint, or its own."),
    ] = None,
    criterion: Annotated[
        str | None,
        typer.Option(help="What its words are chosen by: likelihood or effect (mine.criterion); default: the first."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The inference graph of a class or of an image as a table, and where its figure is; or one unit or word.

    A run with a hidden Markov model prints the image's path first: words, runners-up and by how much they lost.

    Examples:

        inference-graphs show runs/digits --class 3

        inference-graphs show runs/cifar10-resnet20 --class horse

        inference-graphs show runs/cifar10-resnet20 --image 20015

        inference-graphs show runs/cifar10-resnet20 --class horse --scope class-7

        inference-graphs show runs/cifar10-resnet20 --class horse --criterion effect

        inference-graphs show runs/cifar10-mlp --image 20015

        inference-graphs show runs/digits --class 3 --json

        inference-graphs show runs/cars-resnet50 --unit add13:607

        inference-graphs show runs/cars-resnet50 --word add13:17

    Which images have a graph is the preset's mine.images; by default the misclassified validation images.
    """
    if [class_, image, unit, word].count(None) != 3:
        raise RunError("show: give one of --class NAME, --image ID, --unit LAYER:UNIT and --word LAYER:WORD")
    from workflows.run import open_run

    run = open_run(folder)
    if unit is not None or word is not None:
        show_detector(run, "word" if unit is None else "unit", unit or word or "", console(), scope, as_json)
        return
    graph = str(GraphId("image", image)) if image is not None else f"class:{class_}"  # by name or id
    try:
        if as_json:
            print_json(graph_content(run, graph, scope, criterion))
        else:
            show_graph(run, graph, console(), scope, criterion)
    except DataError as error:
        raise DataError(f"--{error}") from None  # what Run calls class, image and scope are options here


def show_graph(run: Run, graph: str, out: Console, scope: str | None = None, criterion: str | None = None) -> None:
    """Print the graph of a class or of an image, and where its figure is.

    In a run with a hidden Markov model an image has its path printed first, and need not have a graph.

    Args:
        run: it is in.
        graph: ``class:<id>`` or ``image:<id>``.
        out: where to.
        scope: whose dictionaries explain it; None: see ``Run.scope_of``.
        criterion: what its words are chosen by; None: see ``Run.criterion``.

    Raises:
        DataError: there is no such class, image, scope or criterion.
        RunFolderError: the run has no such graph or path, or none yet; or none of its scopes has the graph.
    """
    _refuse_without_outputs(run)
    graph = run.graph_id(graph)
    found = run.scope_of(graph, scope)
    explained = GraphId.parse(graph)
    if run.settings.hmm is not None and explained.is_image:
        _show_path(run, explained.number, out)
        if not run.folder.table("nodes").exists() or graph not in run.graphs(found):
            return
        out.print()
    criterion = run.criterion(criterion)
    _refuse_absent(run, graph, found, criterion)
    _show_table(run, graph, found, criterion, out)


def graph_content(run: Run, graph: str, scope: str | None = None, criterion: str | None = None) -> dict[str, Any]:
    """The same graph for programs: rows of the nodes and edges tables, and of an image its row of images.parquet.

    Where the run has it by both criteria also how they compare, see ``compare_criteria``.
    """
    from dataclasses import asdict

    _refuse_without_outputs(run)
    graph = run.graph_id(graph)
    found, criterion = run.scope_of(graph, scope), run.criterion(criterion)
    _refuse_absent(run, graph, found, criterion)
    wanted = [("graph", "=", graph), ("scope", "=", found), ("criterion", "=", criterion)]
    explained = GraphId.parse(graph)
    of_image = {"image": asdict(run.image(explained.number))} if explained.is_image else {}
    figure, compared = run.figure(graph, found, criterion), _compared(run, graph, found)
    return {
        "graph": graph,
        "scope": found,
        "criterion": criterion,
        "network": run.settings.name,
        **of_image,
        "nodes": run.table("nodes", filters=wanted).to_pylist(),
        "edges": run.table("edges", filters=wanted).to_pylist(),
        "figure": str(figure) if figure.exists() else None,
        **({"criteria": [asdict(one) for one in compared]} if compared else {}),
    }


_SHOWN = 8
"""Words of a unit, units of a word."""


def show_detector(run: Run, kind: str, name: str, out: Console, scope: str | None, as_json: bool) -> None:
    """Print what a unit or a word covers.

    Args:
        run: that is dissected.
        kind: ``unit`` or ``word``.
        name: ``LAYER:NUMBER``.
        out: where to.
        scope: whose words; None: joint, or the first there is.
        as_json: the rows of the tables instead.

    Raises:
        DataError: there is no such layer, unit or word. RunFolderError: the run is not dissected.
    """
    from workflows.report.concept_table import unit_table, word_table

    layer, number = _detector_key(run, kind, name)
    scopes = run.scopes()
    scope = scope or (JOINT if JOINT in scopes else scopes[0])
    key = [("layer", "=", layer), (kind, "=", number)]
    of_scope = [("scope", "=", scope)]
    concepts = run.table(f"{kind}_concepts", filters=key if kind == "unit" else [*key, *of_scope]).to_pylist()
    members = run.table("word_units", filters=[*key, *of_scope]).sort_by([("z", "descending")]).slice(0, _SHOWN)
    beside = [{**row, "concept": _named(run, layer, scope, kind, row)} for row in members.to_pylist()]
    title = f"{layer} {kind} {number}"
    if kind == "unit":
        rows = run.table("units", filters=key).to_pylist()
        content, table = {"units": rows}, unit_table(title, rows, concepts, beside)
    else:
        words = run.table("words", filters=[*key, *of_scope]).to_pylist()
        columns = run.plan.train_images * run.plan.layer(layer).positions
        share = words[0]["columns"] / columns if words else None
        content, table = {"words": words}, word_table(title, share, concepts, beside)
    if as_json:
        print_json({"layer": layer, kind: number, **content, f"{kind}_concepts": concepts, "word_units": beside})
    else:
        out.print(table)


def _detector_key(run: Run, kind: str, name: str) -> tuple[str, int]:
    """Layer and number; refuses what the tables do not have."""
    given, colon, number = name.rpartition(":")
    if not (given and colon and number.isdecimal()):
        raise DataError(f"--{kind}: must be LAYER:{kind.upper()}, such as add13:17, got {name!r}")
    if not run.folder.table("units").exists():
        raise RunFolderError(
            f"--{kind}: must ask a run that is dissected, got {str(run.folder.root)!r}; give inference-graphs dissect "
            f"{run.folder.root} first"
        )
    layer = next((one.name for one in run.plan.layers if one.given == given), given)
    known = run.table("units" if kind == "unit" else "word_units", ["layer", kind])
    layers = list(dict.fromkeys(known["layer"].to_pylist()))
    if layer not in layers:
        raise DataError(f"--{kind}: the study dissect has no layer {given!r}; it has {', '.join(layers)}")
    if kind == "unit" and not run.table("units", ["unit"], [("layer", "=", layer), ("unit", "=", int(number))]):
        raise DataError(f"--{kind}: layer {given} has no unit {number}")
    if kind == "word" and int(number) >= run.plan.layer(layer).words:
        raise DataError(
            f"--{kind}: layer {given} has no word {number}; its words are 0 to {run.plan.layer(layer).words - 1}"
        )
    return layer, int(number)


def _named(run: Run, layer: str, scope: str, kind: str, row: dict[str, Any]) -> str:
    """What the word beside a unit, or the unit beside a word, covers best."""
    from workflows.report.lettering import named_concept

    key = [("layer", "=", layer), ("rank", "=", 0)]
    if kind == "unit":
        found = run.table("word_concepts", filters=[*key, ("scope", "=", scope), ("word", "=", row["word"])])
    else:
        found = run.table("unit_concepts", filters=[*key, ("unit", "=", row["unit"])])
    best = max(found.to_pylist(), key=lambda one: one["iou"], default=None)
    return "" if best is None else named_concept(best["concept"], best["iou"])


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


def _compared(run: Run, graph: str, scope: str) -> list[LayerComparison]:
    """Nothing where the graph is there by one criterion alone."""
    from workflows.report.criteria import compare_criteria

    if len(run.settings.mine.criteria) == 1:
        return []
    wanted = [("graph", "=", graph), ("scope", "=", scope)]
    return compare_criteria(run.table("nodes", filters=wanted), run.table("edges", filters=wanted))


def _show_table(run: Run, graph: str, scope: str, criterion: str, out: Console) -> None:
    from workflows.report.criteria import comparison_words
    from workflows.report.terminal import graph_table
    from workflows.report.view_tables import GraphTables, build_graph_view, concepts_of

    explained = GraphId.parse(graph)
    wanted = [("graph", "=", graph), ("scope", "=", scope), ("criterion", "=", criterion)]
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
        criterion=criterion,
        exemplars=1,
        layer_titles={layer.name: layer.given for layer in run.plan.layers},
        code_edges=run.settings.draw.code_edges,
        names=run.word_names(scope),
    )
    out.print(graph_table(view))
    if compared := _compared(run, graph, scope):
        out.print(comparison_words(compared, view.layer_titles), style="dim", highlight=False)
    _print_figure(run.figure(graph, scope, criterion), out)


def _print_figure(figure: Path, out: Console) -> None:
    text = str(figure) if figure.exists() else f"{figure} (not drawn yet: draw.figures asks the draw stage for it)"
    out.print(f"figure {escape(text)}", highlight=False, soft_wrap=True)


def _refuse_without_outputs(run: Run) -> None:
    if not run.settings.network.has_outputs:
        raise RunFolderError(
            f"show: must be a run with graphs, got {str(run.folder.root)!r}, whose network decides nothing "
            "(network.outputs = 'none'); ask it with studies, or name a network with a classifier"
        )


def _refuse_absent(run: Run, graph: str, scope: str, criterion: str) -> None:
    known = run.graphs(scope, criterion)
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
