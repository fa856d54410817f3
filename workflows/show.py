"""What ``inference-graphs show`` prints: one graph as a table, and where its figure is."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from workflows.errors import DataError, RunFolderError
from workflows.plan import Plan
from workflows.report.terminal import graph_table
from workflows.report.view_tables import GraphTables, build_graph_view
from workflows.requests import class_id
from workflows.storage.graphs import graph_names
from workflows.storage.images_table import read_image_rows
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table


def show_graph(root: Path, class_name: str | None, image: int | None, console: Console) -> None:
    """Print the graph of a class (name or id), or of an image (a row of images.parquet).

    Raises:
        DataError: there is no such class or image.
        RunFolderError: the run has no such graph, or no graphs yet.
    """
    folder = RunFolder.open(root)
    settings, plan = folder.settings(), Plan.read(folder)
    scope = settings.fit.scope
    graph = f"image:{image}"
    if class_name is not None:
        graph = f"class:{class_id(class_name, plan.class_names, '--class')}"
    images = None
    if image is not None:
        if not 0 <= image < plan.images:
            raise DataError(f"--image {image} is no image of this run; ids run from 0 to {plan.images - 1}")
        images = read_image_rows(folder.images_table, image, image + 1, ["image", "label", "predicted", "probability"])
    known = graph_names(folder.root, scope)
    if graph not in known:
        raise RunFolderError(_no_graph(graph, known, plan))
    wanted = [("graph", "=", graph)]
    tables = GraphTables(
        nodes=read_table(folder.table("nodes"), filters=wanted),
        edges=read_table(folder.table("edges"), filters=wanted),
        exemplars=read_table(folder.table("exemplars"), filters=[("rank", "=", 0)]),
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
    figure = folder.figure(graph, "png")
    text = str(figure) if figure.exists() else f"{figure} (not drawn yet: run the draw stage)"
    console.print(f"figure {escape(text)}", highlight=False, soft_wrap=True)


def _no_graph(graph: str, known: list[str], plan: Plan) -> str:
    kind, _, number = graph.partition(":")
    others = [name.partition(":")[2] for name in known if name.startswith(f"{kind}:")]
    if kind == "class":
        names = ", ".join(plan.class_names[int(other)] for other in others[:10]) or "none"
        name = plan.class_names[int(number)]
        return f"the run has no graph of class {name!r} (it has: {names}); run it again with --set mine.classes=[...]"
    shown = ", ".join(others[:10]) + (f" and {len(others) - 10} more" if len(others) > 10 else "") or "none"
    return f"the run has no graph of image {number} (it has: {shown}); run it again with --set mine.images=[...]"
