"""Chunks of words: how frequent, in which classes, exemplars, neighbours above and below, and their graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workflows.plan.run_plan import OUTPUT
from workflows.site.chunks import significant
from workflows.site.run_tables import RunTables
from workflows.site.tiles import Picture, sheet
from workflows.storage.states import load_state

NEIGHBOURS = 8
CLASSES = 15
"""Classes of a word that are listed one by one, most columns first."""
GRAPHS = 200
"""Graphs of a word that are listed."""

Word = tuple[str, int]
"""Layer and word."""


@dataclass(frozen=True)
class ScopeWords:
    """What is read once for all words of a scope.

    Attributes:
        rows: of the table words, by layer and word.
        exemplars: rows of the table exemplars, by layer and word, most typical first.
        above, below: neighbours, by layer and word: layer, word, count, log ratio; highest log ratio first.
        graphs: names of graphs that hold the word, class graphs first.
        by_class: columns of training images by true class and of validation images by predicted class.
    """

    rows: Mapping[Word, Mapping[str, Any]]
    exemplars: Mapping[Word, Sequence[Mapping[str, Any]]]
    above: Mapping[Word, Sequence[Sequence[Any]]]
    below: Mapping[Word, Sequence[Sequence[Any]]]
    graphs: Mapping[Word, Sequence[str]]
    by_class: Mapping[Word, tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]]


def read_scope_words(tables: RunTables, scope: str) -> ScopeWords:
    """Read what the chunks of a scope's words hold."""
    own = [("scope", "=", scope)]
    above, below = _neighbours(tables, scope)
    return ScopeWords(
        rows={(row["layer"], row["word"]): row for row in tables.table("words", own).to_pylist()},
        exemplars=_grouped(tables.table("exemplars", own).sort_by("rank").to_pylist()),
        above=above,
        below=below,
        graphs=_graphs(tables.table("nodes", [*own, ("criterion", "=", tables.criterion)], ["graph", "layer", "word"])),
        by_class=_by_class(tables, scope),
    )


def word_chunk(
    words: ScopeWords, key: Word, scope: str, tiles: Mapping[int, Picture | None], size: tuple[int, int]
) -> dict[str, Any]:
    """One word.

    Args:
        words: of its scope.
        key: its layer and number.
        scope: its scope.
        tiles: pictures of exemplars by image; an image that could not be read has none.
        size: height and width of the network's input, pixels.
    """
    row, exemplars = words.rows.get(key, {}), words.exemplars.get(key, ())
    graphs = words.graphs.get(key, ())
    train, validation = words.by_class.get(key, ([], []))
    return {
        "scope": scope,
        "layer": key[0],
        "word": key[1],
        "row": {name: _number(row.get(name)) for name in _ROW} if row else None,
        "exemplars": [_exemplar(one, size) for one in exemplars],
        "sheet": sheet([tiles.get(one["image"]) for one in exemplars], 6) if exemplars else None,
        "train": train,
        "validation": validation,
        "above": words.above.get(key, []),
        "below": words.below.get(key, []),
        "graphs": list(graphs[:GRAPHS]),
        "graph_count": len(graphs),
    }


_ROW = ("pi", "columns", "images", "dominant_class", "dominant_share", "reseeded")


def _number(value: Any) -> Any:
    return significant(value) if isinstance(value, float) else value


def _exemplar(row: Mapping[str, Any], size: tuple[int, int]) -> list[Any]:
    """Image, its class, and the receptive field as shares of the input's sides: left, top, right, bottom."""
    height, width = size
    left, right = (min(max(row[name] / width, 0.0), 1.0) for name in ("x0", "x1"))
    top, bottom = (min(max(row[name] / height, 0.0), 1.0) for name in ("y0", "y1"))
    return [row["image"], row["label"], *(round(one, 4) for one in (left, top, right, bottom))]


def _grouped(rows: Sequence[dict[str, Any]]) -> dict[Word, list[dict[str, Any]]]:
    found: dict[Word, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["layer"], row["word"]), []).append(row)
    return found


def _graphs(nodes: pa.Table) -> dict[Word, list[str]]:
    found: dict[Word, list[str]] = {}
    columns = (nodes[name].to_pylist() for name in ("graph", "layer", "word"))
    for graph, layer, word in sorted(zip(*columns, strict=True), key=lambda one: (not one[0].startswith("class"),)):
        if layer != OUTPUT:
            found.setdefault((layer, word), []).append(graph)
    return found


def _neighbours(tables: RunTables, scope: str) -> tuple[dict[Word, list[list[Any]]], dict[Word, list[list[Any]]]]:
    above: dict[Word, list[list[Any]]] = {}
    below: dict[Word, list[list[Any]]] = {}
    for pair in tables.run.plan.pairs():
        filters = [("scope", "=", scope), ("upper_layer", "=", pair.upper), ("lower_layer", "=", pair.lower)]
        columns = ["class", "upper_word", "lower_word", "count", "log_ratio"]
        rows = tables.table("pairs", filters, columns)
        rows = rows.filter(pc.is_null(rows["class"]))
        upper, lower, count, ratio = (rows[name].to_numpy() for name in columns[1:])
        for word, at in _strongest(upper, ratio):
            below.setdefault((pair.upper, word), []).extend(_listed(pair.lower, lower[at], count[at], ratio[at]))
        for word, at in _strongest(lower, ratio):
            above.setdefault((pair.lower, word), []).extend(_listed(pair.upper, upper[at], count[at], ratio[at]))
    return above, below


def _strongest(words: np.ndarray, ratio: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Every word, and the rows of its highest log ratios, the highest first."""
    order = np.lexsort((-ratio, words))
    starts = np.flatnonzero(np.diff(words[order], prepend=-1))
    for start, stop in zip(starts, np.append(starts[1:], len(order))[: len(starts)], strict=True):
        yield int(words[order[start]]), order[start : min(stop, start + NEIGHBOURS)]


def _listed(layer: str, words: np.ndarray, count: np.ndarray, ratio: np.ndarray) -> list[list[Any]]:
    rows = zip(words.tolist(), count.tolist(), ratio.tolist(), strict=True)
    return [[layer, word, number, significant(value)] for word, number, value in rows]


def _by_class(tables: RunTables, scope: str) -> dict[Word, tuple[list[list[int]], list[list[int]]]]:
    found: dict[Word, tuple[list[list[int]], list[list[int]]]] = {}
    for layer in tables.run.plan.layers:
        path = tables.run.folder.word_summary(scope, layer.name)
        if not path.exists():
            continue
        summary = load_state(path)
        train, validation = (_frequent(summary, part, layer.words) for part in ("label", "prediction"))
        found |= {(layer.name, word): (train[word], validation[word]) for word in range(layer.words)}
    return found


def _frequent(summary: Mapping[str, np.ndarray], part: str, n_words: int) -> list[list[list[int]]]:
    """By word: (class, columns) of the most frequent classes, then (-1, columns) of all others."""
    word, group, count = (summary[f"{part}_{name}"] for name in ("word", "group", "count"))
    order = np.lexsort((group, -count, word))
    word, group, count = word[order], group[order], count[order]
    edges = np.searchsorted(word, np.arange(n_words + 1))
    found = []
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        cut = min(stop, start + CLASSES)
        listed = [[int(one), int(number)] for one, number in zip(group[start:cut], count[start:cut], strict=True)]
        rest = int(count[cut:stop].sum())
        found.append([*listed, [-1, rest]] if rest else listed)
    return found
