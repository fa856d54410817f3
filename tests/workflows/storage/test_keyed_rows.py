"""A table written from rows that came in another order, some at a time: the file of one sorted table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workflows.storage.keyed_rows import keyed_rows
from workflows.storage.tables import ROW_GROUP, to_table, write_parts, write_table

METADATA = {"log_base": "2"}


def edges(graph: str, scope: str, count: int) -> list[dict[str, Any]]:
    key = {"graph": graph, "scope": scope, "criterion": "likelihood", "upper_layer": "add2", "lower_layer": "add1"}
    numbers = {"relative_frequency": 0.5, "log_ratio": -1.5, "drawn": "hidden"}
    return [
        key | numbers | {"upper_word": row, "lower_word": row % 7, "count": row, "score": row / 3}
        for row in range(count)
    ]


GRAPHS = [("class:9", "a", 3), ("image:5", "a", 2), ("class:10", "a", 0), ("image:5", "b", 4), ("class:10", "b", 5)]


def test_rows_come_back_in_order_as_the_sorted_table(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole" / "edges.parquet", tmp_path / "parts" / "edges.parquet"
    rows = [row for graph in GRAPHS for row in edges(*graph)]
    write_table(whole, to_table(rows, "edges").drop_columns("network"), "edges", network="net", metadata=METADATA)
    parts.parent.mkdir()
    with keyed_rows(parts, "edges") as kept:
        for graph in reversed(GRAPHS):
            kept.add(graph[:2], edges(*graph))
        assert len(list(parts.parent.iterdir())) == 1
        assert write_parts(parts, kept.in_order(), "edges", network="net", metadata=METADATA) == len(rows)
    assert parts.read_bytes() == whole.read_bytes()
    assert list(parts.parent.iterdir()) == [parts]


def add_and_fail(path: Path) -> None:
    with keyed_rows(path, "edges") as kept:
        kept.add(("class:1", 0), edges("class:1", "a", 3))
        raise KeyError


def test_nothing_is_left_of_rows_that_were_not_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        add_and_fail(tmp_path / "edges.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sizes", [[], [0], [ROW_GROUP], [5, 0, 2 * ROW_GROUP, 1], [ROW_GROUP - 1, 3]])
def test_the_file_does_not_depend_on_how_rows_are_cut(tmp_path: Path, sizes: list[int]) -> None:
    every = to_table(edges("class:1", "a", sum(sizes)), "edges")
    firsts = [sum(sizes[:place]) for place in range(len(sizes))]
    cut = (every.slice(first, size) for first, size in zip(firsts, sizes, strict=True))
    parts, whole = tmp_path / "parts.parquet", tmp_path / "whole.parquet"
    assert write_parts(parts, cut, "edges", network="net", metadata=METADATA) == len(every)
    rows = every.drop_columns("network")
    write_table(whole, rows, "edges", network="net", sort_by=(), metadata=METADATA)
    assert parts.read_bytes() == whole.read_bytes()
