"""Figures of inference graphs: one class graph or image graph in, its pictures and its figure out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gmm_ops.graphs.windows import AxisWindow
from gmm_ops.graphs.word_distances import centre_distances
from workflows.figures.saved_pictures import SavedPictures
from workflows.plan.run_plan import LayerPlan, Plan
from workflows.plan.scopes import JOINT, joint_scope, read_scopes, scopes_path, split_item
from workflows.report.fit_figure import draw_fit_figure
from workflows.report.graph_figure import GraphStyle, draw_class_graph, draw_image_graph
from workflows.report.graph_view import WordMap
from workflows.report.pictures import PictureFolder
from workflows.report.similarity_figure import LayerSimilarity, draw_similarity_figure
from workflows.report.view_tables import GraphTables, build_graph_view, concepts_of
from workflows.settings import Settings
from workflows.storage.graphs import criterion_of
from workflows.storage.images_table import read_image_rows
from workflows.storage.labels import read_labels
from workflows.storage.names import GraphId
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.words.dictionaries import read_dictionary
from workflows.words.word_maps import read_words


class GraphDrawWorker:
    """Draws ``class:<id>`` and ``image:<id>`` of a scope, and ``effect:class:<id>``, their graphs by effect."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder
        self.scopes = {JOINT: joint_scope(plan)}
        if scopes_path(folder).exists():
            self.scopes |= {scope.name: scope for scope in read_scopes(folder)}
        self.scope, self.criterion, self.tables = "", "", dict[str, pa.Table]()
        self.saver = SavedPictures(settings, folder)
        self.pictures = PictureFolder(folder.pictures)
        self.style = GraphStyle(settings.draw.rectangle_layers)

    def __call__(self, item: str) -> dict[str, Any]:
        """Draw and save both files; the item is ``<scope>/<graph>``, in scope `joint` the graph alone."""
        scope, name = split_item(item)
        criterion, graph = criterion_of(name)
        self._read_tables(scope, criterion)
        shown = GraphId.parse(graph)
        image = shown.number if shown.is_image else None
        self._save_pictures(graph, image)
        view = build_graph_view(
            GraphTables(**self.tables, images=self._images(graph, image), concepts=concepts_of(self.folder, scope)),
            graph,
            scope=scope,
            network=self.settings.name,
            class_names=self.plan.class_names,
            criterion=criterion,
            pictures=self.pictures,
            exemplars=self.settings.draw.exemplars,
            word_maps=None if image is None else self._word_maps(image),
            layer_titles={layer.name: layer.given for layer in self.plan.layers},
            code_edges=self.settings.draw.code_edges,
            names=read_labels(self.folder, scope, {layer.given: layer.name for layer in self.plan.layers}),
        )
        draw = draw_class_graph if image is None else draw_image_graph
        paths = self.folder.figure(name, "png", scope), self.folder.figure(name, "svg", scope)
        draw(view, *paths, self.style)
        return {"bytes": sum(path.stat().st_size for path in paths)}

    def _read_tables(self, scope: str, criterion: str) -> None:
        """Hold the rows of one scope and criterion: those of a thousand may not fit."""
        if (scope, criterion) != (self.scope, self.criterion):
            own, drawn = [("scope", "=", scope)], [("scope", "=", scope), ("criterion", "=", criterion)]
            filters = {"nodes": drawn, "edges": drawn, "exemplars": own, "heatmaps": drawn}
            self.tables = {name: read_table(self.folder.table(name), filters=kept) for name, kept in filters.items()}
            self.scope, self.criterion = scope, criterion

    def _images(self, graph: str, image: int | None) -> Any:
        """Rows of the images table: the image of the graph, or the images of the scope predicted as its class."""
        columns = ["image", "split", "label", "predicted", "probability"]
        if image is not None:
            return read_image_rows(self.folder.images_table, image, image + 1, columns)
        found = read_table(self.folder.images_table, columns, [("predicted", "=", GraphId.parse(graph).number)])
        return found.filter(pa.array(self.scopes[self.scope].contains(found["label"].fill_null(-1).to_numpy())))

    def _save_pictures(self, graph: str, image: int | None) -> None:
        """Save the crops this figure shows and that no other figure has saved yet."""
        chosen = self.tables["nodes"].filter(pc.field("graph") == graph).select(["layer", "word"])
        shown = self.tables["exemplars"].join(chosen, ["layer", "word"], join_type="inner")["image"].to_pylist()
        self.saver.save(sorted({*shown, *([] if image is None else [image])}))

    def _word_maps(self, image: int) -> dict[str, WordMap]:
        """Hard words of the image, and where each position's receptive field is centred in the input."""
        maps = {}
        for layer in self.plan.layers:
            words = read_words(self.folder, self.scope, layer.name, image, image + 1)[0].numpy()
            rows = position_centres(layer.pixels.rows, layer.height, self.plan.input_height)
            columns = position_centres(layer.pixels.columns, layer.width, self.plan.input_width)
            maps[layer.name] = WordMap(words, rows, columns)
        return maps


def position_centres(window: AxisWindow, positions: int, extent: int) -> np.ndarray:
    """Middle of each position's receptive field in pixels, uncropped so that neighbours stay one stride apart.

    Where every field is the whole image, as behind a squeeze-and-excitation block, positions share it evenly.
    """
    if window.is_whole:
        return (np.arange(positions) + 0.5) * extent / positions
    middle = window.offset + window.length(extent) / 2
    return np.clip(window.stride * np.arange(positions) + middle, 0, extent)


SIMILARITY, FIT = "similarity", "fit"
"""Items of the draw stage, and the names of their files."""


class SimilarityDrawWorker:
    """Draws the matrices of all layers of a scope in one figure."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder

    def __call__(self, item: str) -> dict[str, Any]:
        """Draw and save both files; the item is ``<scope>/similarity``, in scope `joint` ``similarity``."""
        scope, name = split_item(item)
        paths = self.folder.figure(name, "png", scope), self.folder.figure(name, "svg", scope)
        layers = [self._similarity(layer, scope) for layer in self.plan.layers]
        draw_similarity_figure(layers, self.plan.class_names, *paths, network=self.settings.name, scope=scope)
        return {"bytes": sum(path.stat().st_size for path in paths)}

    def _similarity(self, layer: LayerPlan, scope: str = JOINT) -> LayerSimilarity:
        key = [("scope", "=", scope), ("layer", "=", layer.name)]
        words = read_table(self.folder.table("words"), ["word", "dominant_class", "dominant_share"], key)
        numbers = ["column_dominant_share", "column_ratio"]
        measured = read_table(self.folder.table("layers"), numbers, key).to_pylist()[0]
        mean = read_dictionary(self.folder, self.settings, self.plan, layer, scope).mean
        return LayerSimilarity(
            title=layer.given,
            distances=centre_distances(torch.from_numpy(mean)).numpy(),
            dominant=words["dominant_class"].fill_null(-1).to_numpy().astype(np.int64),
            share=words["dominant_share"].fill_null(0.0).to_numpy(),
            dominant_share=measured["column_dominant_share"],
            ratio=measured["column_ratio"],
        )


class FitDrawWorker:
    """Draws the curves of the fits of a scope."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.folder = folder
        self.titles = {layer.name: f"{layer.given} ({layer.name})" for layer in plan.layers}

    def __call__(self, item: str) -> dict[str, Any]:
        """Draw and save both files; the item is ``<scope>/fit``, in scope `joint` ``fit``."""
        scope, name = split_item(item)
        history = read_table(self.folder.table("history"), filters=[("scope", "=", scope)])
        paths = self.folder.figure(name, "png", scope), self.folder.figure(name, "svg", scope)
        draw_fit_figure(history, *paths, scope=scope, layer_titles=self.titles)
        return {"bytes": sum(path.stat().st_size for path in paths)}
