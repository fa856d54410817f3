"""The graphs of one class or image by both criteria, held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from workflows.report.graph_view import OUTPUT
from workflows.report.numbers import percent
from workflows.storage.fields import EFFECT, LIKELIHOOD


@dataclass(frozen=True)
class LayerComparison:
    """What two graphs have in a layer.

    Attributes:
        layer: canonical name.
        likelihood, effect: words by each criterion.
        shared: words that are in both.
        kept: of the score (IG Eq. 14: pairs with the chosen words above, times their log ratios) of the words by
            likelihood, what those by effect have; None where it is 0 or below, or there is no word by effect.
    """

    layer: str
    likelihood: int
    effect: int
    shared: int
    kept: float | None


def compare_criteria(nodes: pa.Table, edges: pa.Table) -> list[LayerComparison]:
    """From the output downwards, without it; nothing unless there are graphs by both criteria.

    Args:
        nodes, edges: rows of one graph of one scope, of both criteria.
    """
    words: dict[str, dict[str, set[int]]] = {LIKELIHOOD: {}, EFFECT: {}}
    scores: dict[str, dict[str, float]] = {LIKELIHOOD: {}, EFFECT: {}}
    for row in nodes.to_pylist():
        words[row["criterion"]].setdefault(row["layer"], set()).add(row["word"])
    for row in edges.to_pylist():
        own = scores[row["criterion"]]
        own[row["lower_layer"]] = own.get(row["lower_layer"], 0.0) + row["score"]
    ours, theirs = words[LIKELIHOOD], words[EFFECT]
    if not (ours and theirs):
        return []
    found = []
    for layer in (layer for layer in dict.fromkeys([*ours, *theirs]) if layer != OUTPUT):
        one, other = ours.get(layer, set()), theirs.get(layer, set())
        whole = scores[LIKELIHOOD].get(layer, 0.0)
        kept = scores[EFFECT].get(layer, 0.0) / whole if whole > 0 and other else None
        found.append(LayerComparison(layer, len(one), len(other), len(one & other), kept))
    return found


def comparison_words(layers: Sequence[LayerComparison], titles: Mapping[str, str]) -> str:
    """For people. titles: shorter names of layers."""
    told = []
    for one in layers:
        score = "" if one.kept is None else f" ({percent(one.kept)} of the score)"
        told.append(f"{titles.get(one.layer, one.layer)} {one.shared} of {one.effect}{score}")
    return f"words by effect that are words by likelihood too: {', '.join(told)}"
