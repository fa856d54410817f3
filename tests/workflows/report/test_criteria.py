"""Two graphs of one class held against each other."""

from __future__ import annotations

import pyarrow as pa
import pytest

from workflows.report.criteria import LayerComparison, compare_criteria, comparison_words


def node(criterion: str, layer: str, word: int) -> dict[str, object]:
    return {"criterion": criterion, "layer": layer, "word": word}


def edge(criterion: str, layer: str, score: float) -> dict[str, object]:
    return {"criterion": criterion, "lower_layer": layer, "score": score}


NODES = [
    *(node(criterion, "output", 3) for criterion in ("likelihood", "effect")),
    *(node("likelihood", "high", word) for word in (1, 2, 3)),
    *(node("effect", "high", word) for word in (3, 4, 1)),
    *(node("likelihood", "low", word) for word in (5, 6)),
    node("effect", "low", 9),
]
EDGES = [
    *(edge("likelihood", "high", score) for score in (4.0, 3.0, 1.0)),
    *(edge("effect", "high", score) for score in (4.0, 2.0, -1.0)),
    *(edge("likelihood", "low", score) for score in (1.0, -2.0)),
    edge("effect", "low", 3.0),
]


def test_words_and_scores_are_compared_layer_by_layer() -> None:
    found = compare_criteria(pa.Table.from_pylist(NODES), pa.Table.from_pylist(EDGES))
    assert found == [LayerComparison("high", 3, 3, 2, pytest.approx(5 / 8)), LayerComparison("low", 2, 1, 0, None)]
    told = comparison_words(found, {"high": "add3"})
    assert told == ("words by effect that are words by likelihood too: add3 2 of 3 (62 % of the score), low 0 of 1")


def test_one_criterion_alone_is_not_compared() -> None:
    alone = [row for row in NODES if row["criterion"] == "effect"]
    assert compare_criteria(pa.Table.from_pylist(alone), pa.Table.from_pylist(EDGES)) == []
