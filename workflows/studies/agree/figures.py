"""Figures of agree: a page over all layers, and the first run's graph of every class with what other runs say to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from workflows.asking.study import StudyContext
from workflows.errors import RunFolderError
from workflows.report.agreement_figure import draw_agreement_figure
from workflows.report.graph_figure import GraphStyle, draw_class_graph
from workflows.report.graph_view import GraphView
from workflows.report.pictures import PictureFolder
from workflows.report.view_tables import GraphTables, build_graph_view, concepts_of
from workflows.storage.fields import LIKELIHOOD
from workflows.storage.images_table import read_image_rows
from workflows.storage.names import GraphId
from workflows.storage.tables import read_table

MOST_GRAPHS = 50
"""Classes whose graphs are drawn; of more, those with the lowest ids."""

Row = Mapping[str, Any]


def draw_figures(study: StudyContext, scope: str, run: str) -> None:
    """From the tables alone. run: what the first run is called."""
    tables = {name: read_table(path).to_pylist() for name, path in study.own.tables().items() if name != "word_matches"}
    titles = {layer.name: layer.given for layer in study.plan.layers}
    shown = {name: titles[name] for name in titles if any(row["layer"] == name for row in tables["agreement"])}
    paths = study.figure("png", scope=scope), study.figure("svg", scope=scope)
    draw_agreement_figure(tables["agreement"], shown, study.settings.name, scope, paths)
    nodes = [row for row in tables["consensus"] if row["run"] == run]
    labels = list(dict.fromkeys(row["class"] for row in nodes))
    if len(labels) > MOST_GRAPHS:
        study.say(f"graphs of {MOST_GRAPHS} of {len(labels)} classes are drawn; --class names others")
    drawn = GraphFigures(study, scope)
    for label in labels[:MOST_GRAPHS]:
        drawn.draw(label, [row for row in nodes if row["class"] == label])


class GraphFigures:
    """Draws the graphs of the first run, a class at a time."""

    def __init__(self, study: StudyContext, scope: str) -> None:
        self._study, self._scope = study, scope
        own = [("scope", "=", scope)]
        kept = {name: [*own, ("criterion", "=", LIKELIHOOD)] for name in ("nodes", "edges", "heatmaps")}
        kept["exemplars"] = own
        folder = study.folder
        self._tables = {name: read_table(folder.table(name), filters=filters) for name, filters in kept.items()}
        columns = ["image", "split", "label", "predicted", "probability"]
        self._tables["images"] = read_image_rows(
            folder.images_table, study.plan.train_images, study.plan.images, columns
        )
        self._concepts = concepts_of(folder, scope)

    def draw(self, label: int, nodes: Sequence[Row]) -> None:
        """Write both files. nodes: rows of consensus.parquet."""
        try:
            view = self._view(label, PictureFolder(self._study.folder.pictures))
        except RunFolderError:  # pictures are saved by the draw stage, which may not have come to this class
            view = self._view(label, None)
        name, scope = f"class-{label}", self._scope
        paths = self._study.figure("png", name, scope), self._study.figure("svg", name, scope)
        draw_class_graph(with_consensus(view, nodes), *paths, GraphStyle(self._study.settings.draw.rectangle_layers))

    def _view(self, label: int, pictures: PictureFolder | None) -> GraphView:
        study = self._study
        titles = {layer.name: layer.given for layer in study.plan.layers}
        return build_graph_view(
            GraphTables(**self._tables, concepts=self._concepts),
            str(GraphId("class", label)),
            scope=self._scope,
            network=study.settings.name,
            class_names=study.plan.class_names,
            pictures=pictures,
            exemplars=study.settings.draw.exemplars,
            layer_titles=titles,
            code_edges=study.settings.draw.code_edges,
            names=study.run.word_names(self._scope),
        )


def with_consensus(view: GraphView, nodes: Sequence[Row]) -> GraphView:
    """The same graph with the number of other runs in which the columns of each node are covered."""
    found = {(row["layer"], row["word"]): row for row in nodes if row["covered_runs"] is not None}
    layers = tuple(
        tuple(
            replace(node, covered=(found[node.key]["covered_runs"], found[node.key]["runs"]))
            if node.key in found
            else node
            for node in layer
        )
        for layer in view.layers
    )
    return replace(view, layers=layers)
