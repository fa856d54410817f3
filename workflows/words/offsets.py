"""The second pass after mining: where in the window the lower word of every chosen edge sits, over its Omega."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gmm_ops.graphs.cooccurrence import OffsetHistogram
from gmm_ops.graphs.inference_graph import GraphEdge, InferenceGraph
from workflows.context import StageContext
from workflows.plan.run_plan import Plan
from workflows.storage.images_table import ImageColumns
from workflows.storage.run_folder import RunFolder
from workflows.words.scope_images import ranges_of
from workflows.words.word_maps import read_all_maps

Histograms = dict[tuple[str, str], OffsetHistogram]
"""(graph, pair of layers) -> offset histograms of the graph's edges between them, in the order of the edges."""


@dataclass(frozen=True)
class MinedGraph:
    """A graph and the images that it explains.

    Attributes:
        name: ``class:<id>`` or ``image:<id>``.
        graph: what Algorithm 1 chose.
        omega: image ids, ascending.
        words: layer name -> columns of Omega that are each word, (K,) int64.
    """

    name: str
    graph: InferenceGraph
    omega: np.ndarray
    words: dict[str, Tensor]

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

    def count(self) -> Histograms:
        """Offset histograms of the block's part of every Omega."""
        maps = read_all_maps(self.folder, self.scope, self.plan, self.first, self.stop, self.predicted)
        found: Histograms = {}
        for mined in self.graphs:
            rows = torch.from_numpy(_within(mined.omega, self.first, self.stop) - self.first)
            for level, pair in enumerate(self.plan.pairs()):
                edges = mined.edges_below(len(self.plan.layers) - level)
                if edges:
                    words = torch.tensor([[edge.upper_word, edge.lower_word] for edge in edges])
                    found[mined.name, pair.name] = OffsetHistogram.from_batch(
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
        blocks.append(OffsetBlock(folder, scope, plan, first, stop, images.predicted[first:stop], inside))
    return context.reduce(blocks, OffsetBlock.count, _merge) if blocks else {}


def _merge(left: Histograms, right: Histograms) -> Histograms:
    both = {key: histogram.merge(right[key]) if key in right else histogram for key, histogram in left.items()}
    return both | {key: histogram for key, histogram in right.items() if key not in left}


def _within(omega: np.ndarray, first: int, stop: int) -> np.ndarray:
    """Members of an ascending Omega in [first, stop)."""
    start, end = np.searchsorted(omega, [first, stop])
    return omega[start:end]
