"""cooccurrence -> nodes.parquet, edges.parquet, heatmaps.parquet: Algorithm 1 for every requested class and image.

A graph is mined with the dictionaries of every scope that explains it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor

from gmm_ops.graphs.cooccurrence import OffsetHistogram, SparseCounts, WordCounts, count_pairs, count_words
from gmm_ops.graphs.inference_graph import LOG_BASE, GraphEdge, LogRatios, edge_drawn, log_ratios, mine
from workflows.context import StageContext
from workflows.plan.graph_requests import ScopeGraphs, requested_graphs
from workflows.plan.run_plan import OUTPUT, Plan
from workflows.plan.scopes import joint_scope, read_scopes
from workflows.settings import Settings
from workflows.storage.arrays import read_arrays
from workflows.storage.fields import LIKELIHOOD
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.storage.tables import read_table, to_table, write_table
from workflows.words.offsets import MinedGraph, count_offsets
from workflows.words.scope_images import ScopeImages
from workflows.words.summaries import summary_path
from workflows.words.word_maps import read_all_maps

GRAPHS_AT_ONCE = 256
"""Graphs whose rows are in memory as Python objects; of the others there are Arrow tables, a quarter the size."""


@dataclass(frozen=True)
class Dictionaries:
    """Everything Algorithm 1 reads, loaded once: per pair of layers N and the log ratios, per layer word counts."""

    plan: Plan
    folder: RunFolder
    scope: str
    counts: dict[str, SparseCounts]
    ratios: tuple[LogRatios, ...]
    words: dict[str, WordCounts]

    @classmethod
    def load(cls, folder: RunFolder, settings: Settings, plan: Plan, scope: str) -> Dictionaries:
        """Read the co-occurrence arrays and the word counts of the scope's S_V (IG Eq. 5, 6)."""
        counts, ratios, words = {}, [], {}
        for layer in plan.layers:
            summary = read_arrays(summary_path(folder, scope, layer.name))
            fields = (torch.from_numpy(summary[f"prediction_{field}"]) for field in ("group", "word", "count"))
            words[layer.name] = WordCounts(*fields)
        for pair in plan.pairs():
            arrays = read_arrays(folder.cooccurrence(scope, pair.lower, pair.upper))
            counts[pair.name] = SparseCounts(
                *(torch.from_numpy(arrays[field]) for field in ("group", "upper", "lower", "count"))
            )
            frequency = words[pair.lower].total(pair.lower_words) if settings.mine.prior == "frequency" else None
            total = torch.from_numpy(arrays["total"])
            ratios.append(log_ratios(total, settings.mine.prior, frequency, settings.mine.pseudo_count))
        return cls(plan, folder, scope, counts, tuple(ratios), words)

    def class_counts(self, label: int) -> list[Tensor]:
        """Q of Omega = validation images predicted as the class, from the output pair downwards."""
        return [self.counts[pair.name].dense(label, pair.upper_words, pair.lower_words) for pair in self.plan.pairs()]

    def map_counts(self, maps: dict[str, Tensor]) -> list[Tensor]:
        """Q of the images of some word maps, from the output pair downwards."""
        return [
            count_pairs(maps[pair.upper], maps[pair.lower], pair.window, pair.upper_words, pair.lower_words)
            for pair in self.plan.pairs()
        ]

    def image_maps(self, image: int, predicted: int) -> dict[str, Tensor]:
        """Word maps (1, H, W) of one image in every layer and the output."""
        return read_all_maps(self.folder, self.scope, self.plan, image, image + 1, np.array([predicted]))


def run(context: StageContext) -> None:
    """The stage: for every scope, mine its graphs and pass over their images' word maps for the offset histograms."""
    plan, settings, folder = context.plan(), context.settings, context.folder
    images = ImageColumns.read(folder, 0, plan.images)
    scopes = (joint_scope(plan),) if settings.hmm is not None else read_scopes(folder)
    asked = requested_graphs(settings, plan, images, scopes)
    for words in asked.silent:
        context.warn(words)
    context.begin(len(asked))
    members = ScopeImages(images)
    tables: dict[str, list[pa.Table]] = {name: [to_table([], name)] for name in ("nodes", "edges", "heatmaps")}
    for graphs in asked.scopes:
        for found in _mine_scope(context, plan, images, members, graphs):
            for name, rows in found.items():
                tables[name].append(to_table(rows, name))
    for name, parts in tables.items():
        rows = pa.concat_tables(parts).drop_columns("network")
        write_table(folder.table(name), rows, name, network=settings.name, metadata={"log_base": str(LOG_BASE)})


def _mine_scope(
    context: StageContext, plan: Plan, images: ImageColumns, members: ScopeImages, graphs: ScopeGraphs
) -> Iterator[dict[str, Iterator[dict[str, Any]]]]:
    """Rows of the tables, of one scope, some graphs at a time: histograms and rows of a graph take half a megabyte."""
    if not len(graphs):
        return
    scope = graphs.scope
    dictionaries = Dictionaries.load(context.folder, context.settings, plan, scope.name)
    dominant = _dominant(context.folder, scope.name)
    mined = _mined(dictionaries, context.settings, images, members.members(scope), graphs)
    while found := list(itertools.islice(mined, GRAPHS_AT_ONCE)):
        histograms = count_offsets(context, plan, images, scope.name, found)
        yield {
            "nodes": (row for one in found for row in node_rows(one, dictionaries, dominant)),
            "edges": (row for one in found for row in edge_rows(one, dictionaries)),
            "heatmaps": (row for one in found for row in heatmap_rows(one, dictionaries, histograms)),
        }
        context.progress.advance(len(found))


def _mined(
    dictionaries: Dictionaries,
    settings: Settings,
    images: ImageColumns,
    members: Int[np.ndarray, " n"],
    graphs: ScopeGraphs,
) -> Iterator[MinedGraph]:
    plan, options = dictionaries.plan, settings.mine
    validation = members[members >= plan.train_images]
    for label in graphs.classes:
        counts = dictionaries.class_counts(label)
        graph = mine(label, counts, dictionaries.ratios, options.top, options.positive_only)
        words = {layer.name: dictionaries.words[layer.name].dense(label, layer.words) for layer in plan.layers}
        omega = validation[images.predicted[validation] == label]
        yield MinedGraph(f"class:{label}", graph, omega, words)
    for image in graphs.images:
        predicted = int(images.predicted[image])
        maps = dictionaries.image_maps(image, predicted)
        counts = dictionaries.map_counts(maps)
        graph = mine(predicted, counts, dictionaries.ratios, options.top, options.positive_only)
        group = torch.zeros(1, dtype=torch.int64)
        words = {
            layer.name: count_words(maps[layer.name], group, layer.words).total(layer.words) for layer in plan.layers
        }
        yield MinedGraph(f"image:{image}", graph, np.array([image]), words)


def node_rows(
    mined: MinedGraph, dictionaries: Dictionaries, dominant: dict[tuple[str, int], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Rows of nodes.parquet."""
    names = _layer_names(dictionaries.plan)
    for node in mined.graph.nodes:
        layer = names[node.layer]
        if layer == OUTPUT:
            positions, whole = len(mined.omega), len(mined.omega)
        else:
            positions, whole = int(mined.words[layer][node.word]), int(mined.words[layer].sum())
        yield {
            "graph": mined.name,
            "scope": dictionaries.scope,
            "criterion": LIKELIHOOD,
            "layer": layer,
            "word": node.word,
            "rank": node.rank,
            "score": node.score,
            "positions": positions,
            "share": positions / whole,
            **dominant.get((layer, node.word), {}),
        }


def edge_rows(mined: MinedGraph, dictionaries: Dictionaries) -> Iterator[dict[str, Any]]:
    """Rows of edges.parquet."""
    for edge in mined.graph.edges:
        numbers = {name: getattr(edge, name) for name in ("count", "relative_frequency", "log_ratio", "score")}
        yield _edge_key(mined, dictionaries, edge) | numbers | {"drawn": edge_drawn(edge.log_ratio)}


def heatmap_rows(
    mined: MinedGraph, dictionaries: Dictionaries, histograms: dict[tuple[str, str], OffsetHistogram]
) -> Iterator[dict[str, Any]]:
    """Rows of heatmaps.parquet: where in the window the lower word of each edge sits, over Omega."""
    for level, pair in enumerate(dictionaries.plan.pairs()):
        edges = mined.edges_below(len(dictionaries.plan.layers) - level)
        for index, edge in enumerate(edges):
            histogram = histograms[mined.name, pair.name]
            height, width = histogram.counts.shape[1:]
            yield _edge_key(mined, dictionaries, edge) | {
                "height": height,
                "width": width,
                "row_offset": pair.window.rows.offset,
                "column_offset": pair.window.columns.offset,
                "counts": histogram.counts[index].flatten().tolist(),
                "inside": histogram.inside[index].flatten().tolist(),
            }


def _dominant(folder: RunFolder, scope: str) -> dict[tuple[str, int], dict[str, Any]]:
    """(layer, word) -> its dominant class, from words.parquet."""
    columns = ["scope", "layer", "word", "dominant_class", "dominant_name", "dominant_share"]
    rows = read_table(folder.table("words"), columns, [("scope", "=", scope)]).to_pylist()
    return {(row["layer"], row["word"]): {name: row[name] for name in columns[3:]} for row in rows}


def _layer_names(plan: Plan) -> list[str]:
    """Name of each layer number of ``mine``, the output last."""
    return [layer.name for layer in plan.layers] + [OUTPUT]


def _edge_key(mined: MinedGraph, dictionaries: Dictionaries, edge: GraphEdge) -> dict[str, Any]:
    names = _layer_names(dictionaries.plan)
    return {
        "graph": mined.name,
        "scope": dictionaries.scope,
        "criterion": LIKELIHOOD,
        "upper_layer": names[edge.upper_layer],
        "upper_word": edge.upper_word,
        "lower_layer": names[edge.lower_layer],
        "lower_word": edge.lower_word,
    }
