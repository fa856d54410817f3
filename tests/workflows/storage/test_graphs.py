from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from workflows.errors import RunFolderError
from workflows.storage.graphs import graph_names, load_graph, to_networkx
from workflows.storage.tables import read_table, write_table

NODES = [("output", 3, 0), ("add4", 7, 0), ("add4", 1, 1), ("add2", 7, 0)]
EDGES = [(("output", 3), ("add4", 7), 1.5), (("output", 3), ("add4", 1), -0.5), (("add4", 7), ("add2", 7), 0.25)]


def write(folder: Path, edges: list[Any] = EDGES) -> None:
    nodes = [
        {
            "graph": graph, "scope": "joint", "layer": layer, "word": word, "rank": rank, "score": 2.0 - rank,
            "positions": 5, "share": 0.5, "dominant_class": 3, "dominant_name": "deer", "dominant_share": 0.75,
        }
        for graph in ("class:3", "image:12")
        for layer, word, rank in NODES
    ]  # fmt: skip
    rows = [
        {
            "graph": "class:3", "scope": "joint", "upper_layer": upper[0], "upper_word": upper[1],
            "lower_layer": lower[0], "lower_word": lower[1], "count": 4, "relative_frequency": 0.5,
            "log_ratio": ratio, "score": 4 * ratio, "drawn": "hidden" if ratio <= 0 else "black",
        }
        for upper, lower, ratio in edges
    ]  # fmt: skip
    write_table(folder / "nodes.parquet", nodes, "nodes", network="toy")
    write_table(folder / "edges.parquet", rows, "edges", network="toy")


def test_a_graph_comes_back_with_its_attributes(tmp_path: Path) -> None:
    write(tmp_path)
    graph = load_graph(tmp_path, "class:3")
    assert isinstance(graph, nx.DiGraph)
    assert list(graph.nodes) == [(layer, word) for layer, word, _ in NODES]
    assert graph.graph == {"graph": "class:3", "scope": "joint", "network": "toy", "layers": ["output", "add4", "add2"]}
    assert graph.nodes["add4", 1] == {
        "layer": "add4", "word": 1, "rank": 1, "score": 1.0, "positions": 5, "share": 0.5,
        "dominant_class": 3, "dominant_name": "deer", "dominant_share": 0.75,
    }  # fmt: skip
    assert sorted(graph.edges) == sorted((upper, lower) for upper, lower, _ in EDGES)
    assert graph.edges[("output", 3), ("add4", 1)] == {
        "count": 4, "relative_frequency": 0.5, "log_ratio": -0.5, "score": -2.0, "drawn": "hidden",
    }  # fmt: skip
    assert nx.descendants(graph, ("output", 3)) == {("add4", 7), ("add4", 1), ("add2", 7)}
    assert load_graph(tmp_path, "image:12").number_of_edges() == 0
    assert graph_names(tmp_path) == ["class:3", "image:12"]


def test_a_graph_that_is_not_there_offers_near_ones(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(RunFolderError, match=r"has no graph 'class:30' of scope 'joint'; near ones: class:3"):
        load_graph(tmp_path, "class:30")
    with pytest.raises(RunFolderError, match=r"of scope 'class-1'; scopes with it: joint"):
        load_graph(tmp_path, "class:3", scope="class-1")
    with pytest.raises(RunFolderError, match=r"nodes.parquet.* is missing"):
        load_graph(tmp_path / "none", "class:3")


def test_an_edge_without_its_node_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, [(("output", 3), ("add4", 99), 1.0)])
    nodes, edges = (read_table(tmp_path / f"{name}.parquet") for name in ("nodes", "edges"))
    with pytest.raises(RunFolderError, match=r"name the word \('add4', 99\), which is not in its nodes"):
        to_networkx(nodes, edges, "class:3")
