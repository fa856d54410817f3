"""Figures of inference graphs: one class graph or image graph in, its pictures and its figure out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gmm_ops.graphs.windows import AxisWindow
from workflows.figures.saved_pictures import SavedPictures
from workflows.plan.run_plan import Plan
from workflows.plan.scopes import JOINT, joint_scope, read_scopes, scopes_path, split_item
from workflows.report.graph_figure import GraphStyle, draw_class_graph, draw_image_graph
from workflows.report.graph_view import WordMap
from workflows.report.pictures import PictureFolder
from workflows.report.view_tables import GraphTables, build_graph_view
from workflows.settings import Settings
from workflows.storage.fields import LIKELIHOOD
from workflows.storage.images_table import read_image_rows
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table
from workflows.words.word_maps import read_words


class GraphDrawWorker:
    """Draws ``class:<id>`` and ``image:<id>`` of a scope."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder
        self.scopes = {JOINT: joint_scope(plan)}
        if scopes_path(folder).exists():
            self.scopes |= {scope.name: scope for scope in read_scopes(folder)}
        self.scope, self.tables = "", dict[str, pa.Table]()
        self.saver = SavedPictures(settings, folder)
        self.pictures = PictureFolder(folder.pictures)
        self.style = GraphStyle(settings.draw.rectangle_layers)

    def __call__(self, item: str) -> dict[str, Any]:
        """Draw and save both files; the item is ``<scope>/<graph>``, in scope `joint` the graph alone."""
        scope, graph = split_item(item)
        self._read_tables(scope)
        image = int(graph.removeprefix("image:")) if graph.startswith("image:") else None
        self._save_pictures(graph, image)
        view = build_graph_view(
            GraphTables(**self.tables, images=self._images(graph, image)),
            graph,
            scope=scope,
            network=self.settings.name,
            class_names=self.plan.class_names,
            pictures=self.pictures,
            exemplars=self.settings.draw.exemplars,
            word_maps=None if image is None else self._word_maps(image),
            layer_titles={layer.name: layer.given for layer in self.plan.layers},
            code_edges=self.settings.draw.code_edges,
        )
        draw = draw_class_graph if image is None else draw_image_graph
        paths = self.folder.figure(graph, "png", scope), self.folder.figure(graph, "svg", scope)
        draw(view, *paths, self.style)
        return {"bytes": sum(path.stat().st_size for path in paths)}

    def _read_tables(self, scope: str) -> None:
        """Hold the rows of one scope: those of a thousand may not fit."""
        if scope != self.scope:
            own, drawn = [("scope", "=", scope)], [("scope", "=", scope), ("criterion", "=", LIKELIHOOD)]
            filters = {"nodes": drawn, "edges": drawn, "exemplars": own, "heatmaps": drawn}
            self.tables = {name: read_table(self.folder.table(name), filters=kept) for name, kept in filters.items()}
            self.scope = scope

    def _images(self, graph: str, image: int | None) -> Any:
        """Rows of the images table: the image of the graph, or the images of the scope predicted as its class."""
        columns = ["image", "split", "label", "predicted", "probability"]
        if image is not None:
            return read_image_rows(self.folder.images_table, image, image + 1, columns)
        found = read_table(self.folder.images_table, columns, [("predicted", "=", int(graph.removeprefix("class:")))])
        return found.filter(pa.array(self.scopes[self.scope].contains(found["label"].to_numpy())))

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
