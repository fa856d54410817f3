"""What ``inference-graphs show`` prints: the path of an image, a graph as a table, and where the figures are."""

from __future__ import annotations

import difflib
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.markup import escape

from workflows.errors import DataError, RunFolderError
from workflows.networks.naming import shortened
from workflows.plan.requests import class_id
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import read_scopes, scopes_path
from workflows.report.path_table import path_table
from workflows.report.path_views import build_path_view, read_path_tables, read_word_names
from workflows.report.terminal import graph_table
from workflows.report.view_tables import GraphTables, build_graph_view
from workflows.settings import Settings
from workflows.storage.graphs import graph_names, scoped_graphs
from workflows.storage.images_table import read_image_rows
from workflows.storage.names import JOINT
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table


def show_graph(
    root: Path, class_name: str | None, image: int | None, console: Console, scope: str | None = None
) -> None:
    """Print the graph of a class (name or id), or of an image (a row of images.parquet).

    ``scope`` says whose dictionaries explain it: without, `joint` if the run has it, else the class's own scope, else
    the first list that has the graph. In a run with a hidden Markov model an image has its path printed first, and
    need not have a graph.

    Raises:
        DataError: there is no such class, image or scope.
        RunFolderError: the run has no such graph or path, or none yet; or none of its scopes has the graph.
    """
    folder = RunFolder.open(root)
    settings, plan = folder.settings(), Plan.read(folder)
    if image is None:
        assert class_name is not None, "the command line gives one of both"
        label = class_id(class_name, plan.class_names, "--class")
        graph = f"class:{label}"
        _show_graph(folder, settings, plan, graph, _scope_of(folder, settings, graph, label, scope), None, console)
        return
    if not 0 <= image < plan.images:
        raise DataError(f"--image {image} is no image of this run; ids run from 0 to {plan.images - 1}")
    graph = f"image:{image}"
    images = read_image_rows(folder.images_table, image, image + 1, ["image", "label", "predicted", "probability"])
    found = _scope_of(folder, settings, graph, images["predicted"][0].as_py(), scope)
    if settings.hmm is not None:
        _show_path(folder, settings, plan, image, console)
        mined = folder.table("nodes").exists() and graph in graph_names(folder.root, found)
        if not mined:
            return
        console.print()
    _show_graph(folder, settings, plan, graph, found, images, console)


def _scope_of(folder: RunFolder, settings: Settings, graph: str, label: int | None, asked: str | None) -> str:
    """The scope to show a graph of; ``label``: its class, None if the picture was broken."""
    planned = settings.hmm is None and scopes_path(folder).exists()
    names = [scope.name for scope in read_scopes(folder)] if planned else [JOINT]
    if asked is not None:
        if asked not in names:
            raise DataError(f"--scope: the run has no scope {asked!r}; {_offer(asked, names)}")
        return asked
    for name in (JOINT, f"class-{label}"):
        if name in names:
            return name
    mined = [scope for scope, known in scoped_graphs(folder.root) if known == graph]
    if not mined and len(names) > 1:
        raise RunFolderError(
            f"none of the {len(names)} scopes of the run ({shortened(names)}) has the graph {graph}: ask for it with "
            "mine.classes or mine.images; a class that cannot have a scope of its own is named before the run fits, "
            "and has a graph in scope joint (fit.scopes) only"
        )
    return mined[0] if mined else names[0]


def _offer(asked: str, names: list[str]) -> str:
    near = difflib.get_close_matches(asked, names, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(names[:10])}"


def _show_path(folder: RunFolder, settings: Settings, plan: Plan, image: int, console: Console) -> None:
    titles = {layer.name: layer.given for layer in plan.layers}
    names = read_word_names(folder, titles, plan.class_names, JOINT)
    tables = read_path_tables(folder, image, JOINT)
    console.print(path_table(build_path_view(tables, image, names, scope=JOINT, network=settings.name)))
    figure = folder.figure(f"path:{image}", "png")
    if figure.exists():
        _print_figure(figure, console)


def _show_graph(
    folder: RunFolder, settings: Settings, plan: Plan, graph: str, scope: str, images: pa.Table | None, console: Console
) -> None:
    known = graph_names(folder.root, scope)
    if graph not in known:
        raise RunFolderError(_no_graph(graph, scope, known, plan))
    wanted = [("graph", "=", graph), ("scope", "=", scope)]
    tables = GraphTables(
        nodes=read_table(folder.table("nodes"), filters=wanted),
        edges=read_table(folder.table("edges"), filters=wanted),
        exemplars=read_table(folder.table("exemplars"), filters=[("scope", "=", scope), ("rank", "=", 0)]),
        images=images,
    )
    view = build_graph_view(
        tables,
        graph,
        scope=scope,
        network=settings.name,
        class_names=plan.class_names,
        exemplars=1,
        layer_titles={layer.name: layer.given for layer in plan.layers},
        code_edges=settings.draw.code_edges,
    )
    console.print(graph_table(view))
    _print_figure(folder.figure(graph, "png", scope), console)


def _print_figure(figure: Path, console: Console) -> None:
    text = str(figure) if figure.exists() else f"{figure} (not drawn yet: run the draw stage)"
    console.print(f"figure {escape(text)}", highlight=False, soft_wrap=True)


def _no_graph(graph: str, scope: str, known: list[str], plan: Plan) -> str:
    kind, _, number = graph.partition(":")
    where = "the run" if scope == JOINT else f"scope {scope} of the run"
    others = [name.partition(":")[2] for name in known if name.startswith(f"{kind}:")]
    if kind == "class":
        names = ", ".join(plan.class_names[int(other)] for other in others[:10]) or "none"
        name = plan.class_names[int(number)]
        return f"{where} has no graph of class {name!r} (it has: {names}); run it again with --set mine.classes=[...]"
    shown = ", ".join(others[:10]) + (f" and {len(others) - 10} more" if len(others) > 10 else "") or "none"
    return f"{where} has no graph of image {number} (it has: {shown}); run it again with --set mine.images=[...]"
