"""What the site shows of a graph beyond its tables: the words of Algorithm 1 for every Z, and the counts it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmm_ops.graphs.cooccurrence import count_words
from gmm_ops.graphs.inference_graph import rank_words
from gmm_ops.graphs.windows import Window
from workflows.figures.draw_graphs import position_centres
from workflows.plan.run_plan import OUTPUT, LayerPlan, Plan
from workflows.settings import Settings
from workflows.site.graph_chunks import TOPS, GraphChoices
from workflows.storage.images_table import ImageColumns
from workflows.storage.names import GraphId
from workflows.storage.run_folder import RunFolder
from workflows.words.mining import ScopeCounts
from workflows.words.word_maps import has_maps

SPARE = 4
"""Words just below the cut that a layer shows."""


def has_counts(folder: RunFolder, plan: Plan, scope: str) -> bool:
    """Whether everything is there that the choices of a scope are made from."""
    needed = [folder.cooccurrence(scope, pair.lower, pair.upper) for pair in plan.pairs()]
    needed += [folder.word_summary(scope, layer.name) for layer in plan.layers]
    there = all(has_maps(folder, scope, layer.name) for layer in plan.layers)
    return there and all(path.exists() for path in needed)


def graph_choices(
    counted: ScopeCounts, settings: Settings, images: ImageColumns, graphs: Sequence[str]
) -> Iterator[tuple[str, GraphChoices]]:
    """The choices of graphs of a scope, one after the other, by the function that ``mine`` uses."""
    for name in graphs:
        graph = GraphId.parse(name)
        yield name, (_of_image if graph.is_image else _of_class)(counted, settings, images, graph.number)


def _of_class(counted: ScopeCounts, settings: Settings, images: ImageColumns, label: int) -> GraphChoices:
    del images
    words = [counted.words[layer.name].dense(label, layer.words) for layer in counted.plan.layers]
    return _choices(counted, settings, label, counted.class_counts(label), words)


def _of_image(counted: ScopeCounts, settings: Settings, images: ImageColumns, image: int) -> GraphChoices:
    predicted = int(images.predicted[image])
    maps, group = counted.image_maps(image, predicted), torch.zeros(1, dtype=torch.int64)
    layers = counted.plan.layers
    words = [count_words(maps[layer.name], group, layer.words).total(layer.words) for layer in layers]
    choices = _choices(counted, settings, predicted, counted.map_counts(maps), words)
    choices.dots = [_dots(counted.plan, layer, maps[layer.name][0].numpy()) for layer in reversed(layers)]
    return choices


def _choices(
    counted: ScopeCounts, settings: Settings, root: int, counts: Sequence[Tensor], words_of: Sequence[Tensor]
) -> GraphChoices:
    """words_of: layer by layer from the lowest, columns of Omega that are each word."""
    options = settings.mine
    tops = sorted({*TOPS, options.top})
    ranked = rank_words(root, counts, counted.ratios, tops, SPARE, options.positive_only)
    union = [[root]] + [
        _union([one[level] if level < len(one) else [] for one in ranked]) for level in range(len(counts))
    ]
    choices = GraphChoices(tops=tops, top=options.top, layers=[OUTPUT], words=union)
    choices.layers += [pair.lower for pair in counted.plan.pairs()]
    for one in ranked:
        below = [[union[level + 1].index(word) for word, _ in layer] for level, layer in enumerate(one)]
        choices.ranked.append([[0], *below, *([[]] * (len(counts) - len(below)))])
    for level, (count, ratio) in enumerate(zip(counts, counted.ratios, strict=True)):
        upper, lower = (torch.tensor(words, dtype=torch.int64) for words in union[level : level + 2])
        own = count[upper]
        choices.pairs.append(own[:, lower].numpy())
        choices.log_ratios.append(ratio.values[upper][:, lower].numpy())  # NaN where none is defined
        choices.row_sums.append(own.sum(1).tolist())
    for level, (layer, found) in enumerate(zip(choices.layers[1:], reversed(words_of), strict=True)):
        assert layer == counted.plan.layers[-1 - level].name
        choices.positions.append(found[torch.tensor(union[level + 1], dtype=torch.int64)].tolist())
        choices.whole.append(int(found.sum()))
    return choices


def _union(lists: Sequence[Sequence[tuple[int, float]]]) -> list[int]:
    return list(dict.fromkeys(word for one in lists for word, _ in one))


def _dots(plan: Plan, layer: LayerPlan, words: np.ndarray) -> dict[str, Any]:
    """Where in the network's input the positions of one image lie, as shares of its sides, and their words."""
    pixels: Window = layer.pixels
    rows = position_centres(pixels.rows, layer.height, plan.input_height) / plan.input_height
    columns = position_centres(pixels.columns, layer.width, plan.input_width) / plan.input_width
    return {"rows": rows, "columns": columns, "words": words}
