"""Tables and images -> figures/ and pictures/: every graph as PNG and SVG, and the held-out curve of every fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from gmm_ops.windows import AxisWindow
from workflows.errors import DataError
from workflows.images.decoding import BrokenPicture
from workflows.images.preprocessing import Preprocessor
from workflows.images.reading import PictureReader
from workflows.plan import Plan
from workflows.report.fit_figure import draw_fit_figure
from workflows.report.graph_figure import GraphStyle, draw_class_graph, draw_image_graph
from workflows.report.graph_view import WordMap
from workflows.report.pictures import PictureFolder, picture_path
from workflows.report.view_tables import GraphTables, build_graph_view
from workflows.runtime.dispatcher import map_shards
from workflows.settings import Settings
from workflows.stages.context import StageContext
from workflows.stages.word_maps import read_words
from workflows.storage.atomic import replacing
from workflows.storage.graphs import graph_names
from workflows.storage.images_table import read_image_rows
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table


class DrawWorker:
    """Runs in an actor: one graph in, its pictures and its figure out."""

    def __init__(self, settings: Settings, plan: Plan, folder: RunFolder) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder
        names = ("nodes", "edges", "exemplars", "heatmaps")
        self.tables = {name: read_table(folder.table(name)) for name in names}
        geometry = Preprocessor(settings.preprocessing).crop
        self.reader = PictureReader(settings.data, threads=1, geometry=geometry)
        self.pictures = PictureFolder(folder.pictures)
        self.style = GraphStyle(settings.draw.rectangle_layers)

    def __call__(self, graph: str) -> dict[str, Any]:
        """Draw and save both files."""
        image = int(graph.removeprefix("image:")) if graph.startswith("image:") else None
        self._save_pictures(graph, image)
        view = build_graph_view(
            GraphTables(**self.tables, images=self._images(graph, image)),
            graph,
            scope=self.settings.fit.scope,
            network=self.settings.name,
            class_names=self.plan.class_names,
            pictures=self.pictures,
            exemplars=self.settings.draw.exemplars,
            word_maps=None if image is None else self._word_maps(image),
            layer_titles={layer.name: layer.given for layer in self.plan.layers},
            code_edges=self.settings.draw.code_edges,
        )
        draw = draw_class_graph if image is None else draw_image_graph
        paths = self.folder.figure(graph, "png"), self.folder.figure(graph, "svg")
        draw(view, *paths, self.style)
        return {"bytes": sum(path.stat().st_size for path in paths)}

    def _images(self, graph: str, image: int | None) -> Any:
        columns = ["image", "split", "label", "predicted", "probability"]
        if image is not None:
            return read_image_rows(self.folder.images_table, image, image + 1, columns)
        return read_table(self.folder.images_table, columns, [("predicted", "=", int(graph.removeprefix("class:")))])

    def _save_pictures(self, graph: str, image: int | None) -> None:
        """Save the crops this figure shows and that no other figure has saved yet."""
        chosen = self.tables["nodes"].filter(pc.field("graph") == graph).select(["layer", "word"])
        shown = self.tables["exemplars"].join(chosen, ["layer", "word"], join_type="inner")["image"].to_pylist()
        wanted = sorted({*shown, *([] if image is None else [image])})
        missing = [number for number in wanted if not picture_path(self.folder.pictures, number).exists()]
        paths = [
            read_image_rows(self.folder.images_table, number, number + 1, ["path"])["path"][0].as_py()
            for number in missing
        ]
        for number, result in zip(missing, self.reader.read(paths), strict=True):
            if isinstance(result, BrokenPicture):
                raise DataError(
                    f"image {number} could be read before, now it is {result.reason}: restore {result.path}"
                )
            with replacing(picture_path(self.folder.pictures, number)) as temporary:
                Image.fromarray(result.pixels).save(temporary, format="PNG")

    def _word_maps(self, image: int) -> dict[str, WordMap]:
        """Hard words of the image, and where each position's receptive field is centred in the input."""
        maps = {}
        for layer in self.plan.layers:
            words = read_words(self.folder, self.settings.fit.scope, layer.name, image, image + 1)[0].numpy()
            rows = _centres(layer.pixels.rows, layer.height, self.plan.input_height)
            columns = _centres(layer.pixels.columns, layer.width, self.plan.input_width)
            maps[layer.name] = WordMap(words, rows, columns)
        return maps


def _centres(window: AxisWindow, positions: int, extent: int) -> np.ndarray:
    """Middle of each position's receptive field in pixels, uncropped so that neighbours stay one stride apart."""
    if window.is_whole:
        return np.full(positions, extent / 2)
    middle = window.offset + window.length(extent) / 2
    return np.clip(window.stride * np.arange(positions) + middle, 0, extent)


def run(context: StageContext) -> None:
    """The stage: graphs without a figure go to actors; then the curves of the fits."""
    folder = context.folder
    graphs = graph_names(folder.root, context.settings.fit.scope)
    done = context.begin(len(graphs))
    _remove_other_figures(folder, graphs)
    left = [graph for graph in graphs if graph not in done]
    inputs = {"settings": context.worker_settings(), "plan": context.plan(), "folder": folder}
    map_shards(
        DrawWorker,
        inputs,
        left,
        context.pool(len(left), "graph"),
        on_done=context.finished,
        on_failure=context.failed,
    )
    titles = {layer.name: f"{layer.given} ({layer.name})" for layer in context.plan().layers}
    curves = folder.figures / "fit.png", folder.figures / "fit.svg"
    draw_fit_figure(read_table(folder.table("history")), *curves, scope=context.settings.fit.scope, layer_titles=titles)


def _remove_other_figures(folder: RunFolder, graphs: Sequence[str]) -> None:
    """Figures of graphs that an earlier [mine] asked for and this one does not."""
    kept = {folder.figure(graph, "png").stem for graph in graphs}
    for kind in ("class", "image"):
        for path in folder.figures.glob(f"{kind}-*.*"):
            if path.stem not in kept:
                path.unlink()
