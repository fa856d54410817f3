"""Inference graphs of a scope: Algorithm 1 on its counts, a second pass for the heat maps, and the rows of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gmm_ops.axes import PairCounts
from gmm_ops.graphs.cooccurrence import OffsetHistogram, SparseCounts, WordCounts, count_pairs, count_words
from gmm_ops.graphs.inference_graph import GraphEdge, GraphNode, InferenceGraph, LogRatios, edge_drawn, log_ratios, mine
from workflows.context import StageContext
from workflows.plan.graph_requests import ScopeGraphs
from workflows.plan.run_plan import OUTPUT, LayerPair, Plan
from workflows.runtime.devices import turn_on
from workflows.settings import Settings
from workflows.storage.fields import EFFECT, LIKELIHOOD
from workflows.storage.images_table import ImageColumns
from workflows.storage.log_unit import LOG_UNIT
from workflows.storage.names import GraphId
from workflows.storage.pair_counts import read_pair_counts
from workflows.storage.run_folder import RunFolder
from workflows.storage.states import load_state
from workflows.storage.tables import read_table
from workflows.words.scope_images import ranges_of
from workflows.words.word_maps import read_all_maps

if TYPE_CHECKING:
    from workflows.words.scope_effects import ScopeEffects
    from workflows.words.sureness import PairIntervals, ScopeStability

Histograms = dict[tuple[str, str, str], OffsetHistogram]
"""(graph, criterion, pair of layers) -> offset histograms of its edges between them, in the order of the edges."""


def ratios_of(
    total: PairCounts, prior: Literal["marginal", "frequency"], lower_frequency: Tensor | None, pseudo_count: float
) -> LogRatios:
    """``log_ratios`` in the unit that tables and figures state."""
    return log_ratios(total, prior, lower_frequency, pseudo_count, LOG_UNIT.base)


def drawn(log_ratio: float) -> str:
    """The column of that name: `hidden`, `weak` or `strong`."""
    return edge_drawn(log_ratio, LOG_UNIT.base)


@dataclass(frozen=True)
class ScopeCounts:
    """Everything Algorithm 1 reads, loaded once: per pair of layers N and the log ratios, per layer word counts."""

    plan: Plan
    folder: RunFolder
    scope: str
    counts: dict[str, SparseCounts]
    ratios: tuple[LogRatios, ...]
    words: dict[str, WordCounts]

    @classmethod
    def load(cls, folder: RunFolder, settings: Settings, plan: Plan, scope: str) -> ScopeCounts:
        """Read the co-occurrence tables and the word counts of the scope's S_V (IG Eq. 5, 6)."""
        counts: dict[str, SparseCounts] = {}
        ratios, words = [], {}
        for layer in plan.layers:
            summary = load_state(folder.word_summary(scope, layer.name), "count")
            fields = (torch.from_numpy(summary[f"prediction_{field}"]) for field in ("group", "word", "count"))
            words[layer.name] = WordCounts(*fields)
        counted, options = cls(plan, folder, scope, counts, (), words), settings.mine
        for pair in plan.pairs():
            counts[pair.name] = read_pair_counts(folder.cooccurrence(scope, pair.lower, pair.upper))
            frequency = counted.frequency(pair) if options.prior == "frequency" else None
            total = counts[pair.name].total(pair.upper_words, pair.lower_words)
            ratios.append(ratios_of(total, options.prior, frequency, options.pseudo_count))
        return replace(counted, ratios=tuple(ratios))

    def frequency(self, pair: LayerPair) -> Int[Tensor, " K_lower"]:
        """How many columns of S_V are each lower word of a pair of layers."""
        return self.words[pair.lower].total(pair.lower_words)

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


@dataclass(frozen=True)
class MinedGraph:
    """A graph and the images that it explains.

    Attributes:
        name: ``class:<id>`` or ``image:<id>``.
        graph: what Algorithm 1 chose.
        omega: image ids, ascending.
        words: layer name -> columns of Omega that are each word, (K,) int64.
        chosen_again: see ``ScopeStability.shares``; empty where it was not asked, and of a graph by effect.
        criterion: what the words were chosen by.
    """

    name: str
    graph: InferenceGraph
    omega: np.ndarray
    words: dict[str, Tensor]
    chosen_again: Mapping[tuple[int, int], float] = field(default_factory=dict)
    criterion: str = LIKELIHOOD

    def edges_below(self, level: int) -> list[GraphEdge]:
        """Edges whose upper word lies in the layer numbered ``level``."""
        return [edge for edge in self.graph.edges if edge.upper_layer == level]


@dataclass(frozen=True)
class OffsetBlock:
    """Consecutive images of a shard, read once for all graphs of a scope that explain some of them."""

    folder: RunFolder
    scope: str
    plan: Plan
    first: int
    stop: int
    predicted: np.ndarray
    graphs: Sequence[MinedGraph]
    device: str = "cpu"
    """Where the maps are put to be counted; the counts do not depend on it."""

    def count(self) -> Histograms:
        """Offset histograms of the block's part of every Omega."""
        maps = read_all_maps(self.folder, self.scope, self.plan, self.first, self.stop, self.predicted)
        with turn_on(self.device):
            return self._histograms({name: words.to(self.device) for name, words in maps.items()})

    def _histograms(self, maps: dict[str, Tensor]) -> Histograms:
        found: Histograms = {}
        for mined in self.graphs:
            rows = torch.from_numpy(_within(mined.omega, self.first, self.stop) - self.first).to(self.device)
            for level, pair in enumerate(self.plan.pairs()):
                edges = mined.edges_below(len(self.plan.layers) - level)
                if edges:
                    words = torch.tensor([[edge.upper_word, edge.lower_word] for edge in edges])
                    found[mined.name, mined.criterion, pair.name] = OffsetHistogram.from_batch(
                        maps[pair.upper][rows], maps[pair.lower][rows], pair.window, words
                    )
        return found


def count_offsets(
    context: StageContext, plan: Plan, images: ImageColumns, scope: str, graphs: Sequence[MinedGraph]
) -> Histograms:
    """One Dask reduction over the chunks that hold an image of some Omega."""
    extract, folder = context.settings.extract, context.folder
    every = np.unique(np.concatenate([mined.omega for mined in graphs]))
    blocks = []
    for first, end in ranges_of(every, extract.images_per_shard, extract.images_per_chunk):
        stop = min(end, plan.images)
        inside = [mined for mined in graphs if len(_within(mined.omega, first, stop))]
        predicted = images.predicted[first:stop]
        blocks.append(OffsetBlock(folder, scope, plan, first, stop, predicted, inside, context.reduction_device))
    return context.reduce(blocks, OffsetBlock.count, _merge) if blocks else {}


def _merge(left: Histograms, right: Histograms) -> Histograms:
    both = {key: histogram.merge(right[key]) if key in right else histogram for key, histogram in left.items()}
    return both | {key: histogram for key, histogram in right.items() if key not in left}


def _within(omega: np.ndarray, first: int, stop: int) -> np.ndarray:
    """Members of an ascending Omega in [first, stop)."""
    start, end = np.searchsorted(omega, [first, stop])
    return omega[start:end]


@dataclass(frozen=True)
class _Explained:
    """A class or an image, and what Algorithm 1 is given of it; attributes as of ``MinedGraph``."""

    name: GraphId
    root: int
    counts: Sequence[Tensor]
    omega: Int[np.ndarray, " n"]
    words: dict[str, Tensor]


def mined_graphs(
    counted: ScopeCounts,
    settings: Settings,
    images: ImageColumns,
    members: Int[np.ndarray, " n"],
    graphs: ScopeGraphs,
    stability: ScopeStability | None = None,
    effects: ScopeEffects | None = None,
) -> Iterator[MinedGraph]:
    """Algorithm 1 for every class and image of a scope, by every criterion that is asked for.

    Args:
        counted, graphs: of the scope.
        settings, images: of the run.
        members: images of the scope's classes, ascending.
        stability: tells how often words are chosen again, by likelihood.
        effects: what the words of graphs by effect are chosen by, if any; a training image has none, and no such graph.
    """
    options = settings.mine
    for one in _explained(counted, images, members, graphs):
        of_class = not one.name.is_image
        for criterion in options.criteria:
            scores = effects.scores(one.name) if effects is not None and criterion == EFFECT else None
            if scores is None and criterion == EFFECT:
                continue
            graph = mine(one.root, one.counts, counted.ratios, options.top, options.positive_only, scores)
            again: Mapping[tuple[int, int], float] = {}
            if stability is not None and criterion == LIKELIHOOD:
                again = stability.shares(one.root, None if of_class else one.counts)
            yield MinedGraph(str(one.name), graph, one.omega, one.words, again, criterion)


def _explained(
    counted: ScopeCounts, images: ImageColumns, members: Int[np.ndarray, " n"], graphs: ScopeGraphs
) -> Iterator[_Explained]:
    layers = counted.plan.layers
    validation = members[members >= counted.plan.train_images]
    for label in graphs.classes:
        words = {layer.name: counted.words[layer.name].dense(label, layer.words) for layer in layers}
        omega = validation[images.predicted[validation] == label]
        yield _Explained(GraphId("class", label), label, counted.class_counts(label), omega, words)
    for image in graphs.images:
        predicted = int(images.predicted[image])
        maps, group = counted.image_maps(image, predicted), torch.zeros(1, dtype=torch.int64)
        words = {layer.name: count_words(maps[layer.name], group, layer.words).total(layer.words) for layer in layers}
        yield _Explained(GraphId("image", image), predicted, counted.map_counts(maps), np.array([image]), words)


def node_rows(
    mined: MinedGraph, counted: ScopeCounts, dominant: dict[tuple[str, int], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Rows of nodes.parquet."""
    names = _layer_names(counted.plan)
    for node in mined.graph.nodes:
        layer = names[node.layer]
        if layer == OUTPUT:
            positions, whole = len(mined.omega), len(mined.omega)
        else:
            positions, whole = int(mined.words[layer][node.word]), int(mined.words[layer].sum())
        yield {
            "graph": mined.name,
            "scope": counted.scope,
            "criterion": mined.criterion,
            "layer": layer,
            "word": node.word,
            "rank": node.rank,
            "score": node.score,
            "positions": positions,
            "share": positions / whole,
            "chosen_again": _chosen_again(mined, node),
            **dominant.get((layer, node.word), {}),
        }


def _chosen_again(mined: MinedGraph, node: GraphNode) -> float | None:
    """None of the root, which is given, and where it was not asked."""
    known = bool(mined.chosen_again) and node.layer < mined.graph.nodes[0].layer
    return mined.chosen_again.get((node.layer, node.word), 0.0) if known else None


def edge_rows(
    mined: MinedGraph, counted: ScopeCounts, intervals: Sequence[PairIntervals] = ()
) -> Iterator[dict[str, Any]]:
    """Rows of edges.parquet; intervals by pair of layers from the output downwards, or none."""
    for edge in mined.graph.edges:
        numbers = {name: getattr(edge, name) for name in ("count", "relative_frequency", "log_ratio", "score")}
        numbers["drawn"] = drawn(edge.log_ratio)
        if intervals:
            pair = intervals[len(counted.plan.layers) - edge.upper_layer]
            numbers |= pair.of(edge.upper_word, edge.lower_word)
        yield _edge_key(mined, counted, edge) | numbers


def heatmap_rows(mined: MinedGraph, counted: ScopeCounts, histograms: Histograms) -> Iterator[dict[str, Any]]:
    """Rows of heatmaps.parquet: where in the window the lower word of each edge sits, over Omega."""
    for level, pair in enumerate(counted.plan.pairs()):
        edges = mined.edges_below(len(counted.plan.layers) - level)
        for index, edge in enumerate(edges):
            histogram = histograms[mined.name, mined.criterion, pair.name]
            height, width = histogram.counts.shape[1:]
            yield _edge_key(mined, counted, edge) | {
                "height": height,
                "width": width,
                "row_offset": pair.window.rows.offset,
                "column_offset": pair.window.columns.offset,
                "counts": histogram.counts[index].flatten().tolist(),
                "inside": histogram.inside[index].flatten().tolist(),
            }


def dominant_classes(folder: RunFolder, scope: str) -> dict[tuple[str, int], dict[str, Any]]:
    """(layer, word) -> its dominant class, from words.parquet."""
    columns = ["scope", "layer", "word", "dominant_class", "dominant_name", "dominant_share"]
    rows = read_table(folder.table("words"), columns, [("scope", "=", scope)]).to_pylist()
    return {(row["layer"], row["word"]): {name: row[name] for name in columns[3:]} for row in rows}


def _layer_names(plan: Plan) -> list[str]:
    """Name of each layer number of ``mine``, the output last."""
    return [layer.name for layer in plan.layers] + [OUTPUT]


def _edge_key(mined: MinedGraph, counted: ScopeCounts, edge: GraphEdge) -> dict[str, Any]:
    names = _layer_names(counted.plan)
    return {
        "graph": mined.name,
        "scope": counted.scope,
        "criterion": mined.criterion,
        "upper_layer": names[edge.upper_layer],
        "upper_word": edge.upper_word,
        "lower_layer": names[edge.lower_layer],
        "lower_word": edge.lower_word,
    }
