"""What the study ``trust`` found of a class, as its graph's page shows it: whether the network uses the words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from workflows.site.chunks import significant, significant_list
from workflows.storage.names import GraphId

GRAPH, RANDOM, WORD = "graph", "random", "word"
"""Selections of the table effects that are shown."""

_EFFECT = ("drop", "excess", "excess_low", "excess_high")


def used_words(effects: pa.Table, completeness: pa.Table, criterion: str) -> dict[str, dict[str, Any]]:
    """By graph of a class, drops of its logit on the images that chose no word of the controls.

    Args:
        effects, completeness: rows of one scope; without rows where the study was not asked.
        criterion: what the words of the shown graphs are chosen by.

    Returns:
        ``top`` (Z), ``intervention`` and ``images``; ``layers``, a row each: name, drop, random drop, excess with its
        ends; ``words``: layer, word, drop, excess with its ends; ``complete``: layer, and how often the decision is the
        network's with its words alone and with all but them.
    """
    own = [row for row in effects.to_pylist() if row["half"] == "judged" and row["criterion"] == criterion]
    by_class: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in own:
        if row["class"] is not None:
            by_class[row["class"]].append(row)
    same = _same_decisions(completeness)
    return {str(GraphId("class", label)): _of_class(rows, same.get(label, {})) for label, rows in by_class.items()}


def _of_class(rows: list[dict[str, Any]], same: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Of the first Z and intervention, which curves and edges are of too."""
    first = rows[0]
    rows = [row for row in rows if all(row[name] == first[name] for name in ("top", "intervention"))]
    random = {row["layer"]: row["drop"] for row in rows if row["selection"] == RANDOM}
    return {
        **{name: first[name] for name in ("top", "intervention", "images")},
        "layers": [
            [row["layer"], significant(row["drop"]), significant(random.get(row["layer"])), *_numbers(row)[1:]]
            for row in rows
            if row["selection"] == GRAPH
        ],
        "words": [[row["layer"], row["words"][0], *_numbers(row)] for row in rows if row["selection"] == WORD],
        "complete": [
            [layer, *(significant(kinds.get(kind)) for kind in ("words", "error"))] for layer, kinds in same.items()
        ],
    }


def _numbers(row: Mapping[str, Any]) -> list[float | int | None]:
    return significant_list([row[name] for name in _EFFECT])


def _same_decisions(completeness: pa.Table) -> dict[int, dict[str, dict[str, float]]]:
    """By class, layer and kind."""
    found: dict[int, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in completeness.to_pylist():
        if row["class"] is not None:
            found[row["class"]][row["layer"]][row["kind"]] = row["same_decision"]
    return found
