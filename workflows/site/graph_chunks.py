"""Chunks of graphs: candidate words for every Z with their counts and log ratios, heat maps, places in an image."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from workflows.site.chunks import significant, significant_list
from workflows.storage.fields import LIKELIHOOD

TOPS = range(1, 13)
"""Values of Z that the page offers."""

HEAT_LEVELS = 99
"""Shades of a heat map; the page is told what the brightest means."""


@dataclass
class GraphChoices:
    """Algorithm 1 on one graph for several Z; layers from the output downwards.

    Attributes:
        tops: values of Z; ``top`` is the run's own.
        layers: names, the output first.
        words: by layer, every word that some Z chooses or nearly chooses; the first layer holds the root alone.
        ranked: by Z and layer, places in ``words``, best first: the first Z of them are chosen, the others come next.
        pairs, log_ratios: by pair of layers, Q and LR (upper words, lower words); NaN where no log ratio is defined.
        row_sums: by pair of layers, Q of each upper word over all lower words.
        positions: by layer below the output, columns of Omega that are each word; ``whole`` of all words.
        dots: of an image, by layer below the output: words of its positions, and where these lie.
    """

    tops: list[int]
    top: int
    layers: list[str]
    words: list[list[int]]
    ranked: list[list[list[int]]] = field(default_factory=list)
    pairs: list[np.ndarray] = field(default_factory=list)
    log_ratios: list[np.ndarray] = field(default_factory=list)
    row_sums: list[list[int]] = field(default_factory=list)
    positions: list[list[int]] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    dots: list[dict[str, Any]] | None = None


def choices_of_tables(nodes: pa.Table, edges: pa.Table, top: int, layers: Sequence[str]) -> GraphChoices:
    """The graph as it was mined, for a run whose counts are gone: its own Z alone, nothing below the cut.

    Args:
        nodes, edges: rows of the one graph.
        top: Z of the run.
        layers: the output, then the modelled layers from the top.
    """
    rows = nodes.to_pylist()
    words = [[row["word"] for row in rows if row["layer"] == layer] for layer in layers]
    choices = GraphChoices([top], top, list(layers), words, [[list(range(len(own))) for own in words]])
    places = [{word: place for place, word in enumerate(own)} for own in words]
    for upper, lower in zip(range(len(layers) - 1), range(1, len(layers)), strict=True):
        shape = len(words[upper]), len(words[lower])
        count, ratio, sums = np.zeros(shape, np.int64), np.full(shape, np.nan), [0] * shape[0]
        for edge in edges.to_pylist():
            if edge["upper_layer"] == layers[upper]:
                at = places[upper][edge["upper_word"]], places[lower][edge["lower_word"]]
                count[at], ratio[at] = edge["count"], edge["log_ratio"]
                sums[at[0]] = round(edge["count"] / edge["relative_frequency"])
        choices.pairs.append(count)
        choices.log_ratios.append(ratio)
        choices.row_sums.append(sums)
        own = [row for row in rows if row["layer"] == layers[lower]]
        choices.positions.append([row["positions"] for row in own])
        known = next((row for row in own if row["share"]), None)
        choices.whole.append(round(known["positions"] / known["share"]) if known else 0)
    return choices


def graph_chunk(choices: GraphChoices, heats: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> dict[str, Any]:
    """What the page draws a graph from.

    Args:
        choices: its words for every Z.
        heats: its rows of heatmaps.
        about: what else is known of it: scope, graph, images explained, and of an image its row.
    """
    followed = [_followed(choices, level) for level in range(len(choices.pairs))]
    return {
        **about,
        "tops": choices.tops,
        "top": choices.top,
        "layers": choices.layers,
        "words": choices.words,
        "ranked": choices.ranked,
        "pairs": [_rows(count, kept) for count, kept in zip(choices.pairs, followed, strict=True)],
        "ratios": [
            [significant_list(row) for row in _rows(np.where(count > 0, ratio, 0), kept)]
            for count, ratio, kept in zip(choices.pairs, choices.log_ratios, followed, strict=True)
        ],
        "sums": choices.row_sums,
        "positions": choices.positions,
        "whole": choices.whole,
        "heats": [_heat(row) for row in heats],
        "dots": None
        if choices.dots is None
        else [_places(*one) for one in zip(choices.dots, choices.words[1:], strict=True)],
    }


def _followed(choices: GraphChoices, level: int) -> set[int]:
    """Places of the words of a layer that some Z chooses: only these have arrows to lower words."""
    ranked = zip(choices.tops, choices.ranked, strict=True)
    return {place for top, layers in ranked for place in layers[level][: top if level else 1]}


def _rows(values: np.ndarray, kept: Container[int]) -> list[list[Any]]:
    """Rows of a matrix as lists; those of words that are nowhere followed are empty."""
    return [row if place in kept else [] for place, row in enumerate(values.tolist())]


def _heat(row: Mapping[str, Any]) -> dict[str, Any]:
    counts, inside = (np.asarray(row[name], np.float64) for name in ("counts", "inside"))
    share = np.divide(counts, inside, out=np.full(len(counts), np.nan), where=inside > 0)
    highest = float(np.nanmax(share)) if np.isfinite(share).any() else 0.0
    levels = np.where(np.isfinite(share), np.rint(share / (highest or 1.0) * HEAT_LEVELS), -1)
    return {
        "upper": [row["upper_layer"], row["upper_word"]],
        "lower": [row["lower_layer"], row["lower_word"]],
        "size": [row["height"], row["width"]],
        "offset": [row["row_offset"], row["column_offset"]],
        "highest": significant(highest),
        "levels": levels.astype(int).tolist(),
    }


def _places(dots: Mapping[str, Any], words: Sequence[int]) -> dict[str, Any]:
    """Positions of the words, row by row from 0, and the middles of rows and columns as shares of the sides."""
    flat = np.asarray(dots["words"]).ravel()
    return {
        "rows": [round(float(one), 4) for one in dots["rows"]],
        "columns": [round(float(one), 4) for one in dots["columns"]],
        "of": [np.flatnonzero(flat == word).tolist() for word in words],
    }


def how_sure(nodes: pa.Table, edges: pa.Table) -> dict[str, list[list[Any]]]:
    """What is known of the words and arrows at the Z of the run: shares of resamplings, and intervals of log ratios.

    Args:
        nodes, edges: rows of the one graph; tables of earlier runs have no such columns.
    """
    again = [[row["layer"], row["word"], row.get("chosen_again")] for row in nodes.to_pylist()]
    ends = ("upper_layer", "upper_word", "lower_layer", "lower_word")
    intervals = [
        [
            *(row[name] for name in ends),
            significant(row["log_ratio_low"]),
            significant(row["log_ratio_high"]),
            row["images"],
        ]
        for row in edges.to_pylist()
        if row.get("log_ratio_low") is not None
    ]
    return {"again": [one for one in again if one[2] is not None], "intervals": intervals}


def rows_by_graph(
    table: pa.Table, scope: str, graphs: Sequence[str], criterion: str = LIKELIHOOD
) -> dict[str, pa.Table]:
    """Rows of nodes, edges or heatmaps of a scope and criterion, by graph, in their order."""
    import pyarrow.compute as pc

    wanted = pc.and_(pc.equal(table["scope"], scope), pc.equal(table["criterion"], criterion))
    own = table.filter(wanted)
    names = own["graph"].to_numpy(zero_copy_only=False)
    order = np.argsort(names, kind="stable")
    ordered, sorted_names = own.take(pa.array(order)), names[order]
    found = {}
    for graph in graphs:
        first, stop = (int(np.searchsorted(sorted_names, graph, side)) for side in ("left", "right"))
        found[graph] = ordered.slice(first, stop - first)
    return found
