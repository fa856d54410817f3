from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workflows.errors import DataError, RunFolderError
from workflows.storage.graphs import graph_names, load_graph, to_networkx
from workflows.storage.names import GraphId
from workflows.storage.tables import SCHEMAS, read_table, write_table

NODES = [("output", 3, 0), ("add4", 7, 0), ("add4", 1, 1), ("add2", 7, 0)]
EDGES = [(("output", 3), ("add4", 7), 1.5), (("output", 3), ("add4", 1), -0.5), (("add4", 7), ("add2", 7), 0.25)]


def write(folder: Path, edges: list[Any] = EDGES) -> None:
    nodes = [
        {
            "graph": graph, "scope": "joint", "criterion": "likelihood",
            "layer": layer, "word": word, "rank": rank, "score": 2.0 - rank,
            "positions": 5, "share": 0.5, "dominant_class": 3, "dominant_name": "deer", "dominant_share": 0.75,
        }
        for graph in ("class:3", "image:12")
        for layer, word, rank in NODES
    ]  # fmt: skip
    rows = [
        {
            "graph": "class:3", "scope": "joint", "criterion": "likelihood",
            "upper_layer": upper[0], "upper_word": upper[1],
            "lower_layer": lower[0], "lower_word": lower[1], "count": 4, "relative_frequency": 0.5,
            "log_ratio": ratio, "score": 4 * ratio, "drawn": "hidden" if ratio <= 0 else "weak",
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
    key = {"graph": "class:3", "scope": "joint", "criterion": "likelihood", "network": "toy"}
    assert graph.graph == key | {"layers": "output,add4,add2"}
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


@pytest.mark.parametrize("form", ["graphml", "gexf"])
def test_a_graph_is_written_for_other_programs(tmp_path: Path, form: str) -> None:
    """GraphML has neither lists nor nothing: the word without a dominant class has no such attribute."""
    write(tmp_path)
    nodes = read_table(tmp_path / "nodes.parquet").to_pylist()
    for row in nodes:
        if (row["layer"], row["word"]) == ("add2", 7):
            row.update(dominant_class=None, dominant_name=None, dominant_share=None)
    write_table(tmp_path / "nodes.parquet", nodes, "nodes")
    graph = load_graph(tmp_path, "class:3")
    file = tmp_path / f"graph.{form}"
    getattr(nx, f"write_{form}")(graph, file)
    back = getattr(nx, f"read_{form}")(file)
    assert sorted(back.nodes) == sorted(str(node) for node in graph.nodes)
    for node, kept in graph.nodes(data=True):
        assert {name: back.nodes[str(node)][name] for name in kept} == kept
        assert ("dominant_class" in kept) == (node != ("add2", 7))
    for upper, lower, kept in graph.edges(data=True):
        found = back.edges[str(upper), str(lower)]
        assert {name: found[name] for name in kept} == kept
    if form == "graphml":
        assert graph.graph.items() <= back.graph.items()


def test_graphs_of_another_criterion_stand_apart(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("nodes", "edges"):
        table = read_table(tmp_path / f"{name}.parquet").to_pylist()
        effect = [row | {"criterion": "effect", "score": 9.0} for row in table if row.get("word") != 1]
        effect = [row for row in effect if row["graph"] == "class:3" and row.get("lower_word") != 1]
        write_table(tmp_path / f"{name}.parquet", [*table, *effect], name)
    assert graph_names(tmp_path) == ["class:3", "image:12"]
    assert graph_names(tmp_path, criterion="effect") == ["class:3"]
    assert len(load_graph(tmp_path, "class:3")) == 4
    graph = load_graph(tmp_path, "class:3", criterion="effect")
    assert len(graph) == 3
    assert {kept["score"] for _, kept in graph.nodes(data=True)} == {9.0}
    with pytest.raises(RunFolderError, match=r"no graph 'image:12' of scope 'joint' by criterion 'effect'"):
        load_graph(tmp_path, "image:12", criterion="effect")


def test_a_run_of_version_0_is_read_as_one_of_today(tmp_path: Path) -> None:
    """It had no criterion, and its edges said in which colour they were drawn."""
    write(tmp_path)
    today = load_graph(tmp_path, "class:3")
    colours = {"hidden": "hidden", "weak": "black", "strong": "green"}
    for name in ("nodes", "edges"):
        table = read_table(tmp_path / f"{name}.parquet").drop_columns("criterion")
        if name == "edges":
            drawn = ["strong" if row["log_ratio"] > 1 else row["drawn"] for row in table.to_pylist()]
            old = pa.array([colours[strength] for strength in drawn])
            table = table.set_column(table.column_names.index("drawn"), "drawn", old)
        pq.write_table(table, tmp_path / f"{name}.parquet")
    found = load_graph(tmp_path, "class:3")
    assert found.graph == today.graph
    assert dict(found.nodes) == dict(today.nodes)
    assert [kept["drawn"] for *_, kept in found.edges(data=True)] == ["strong", "hidden", "weak"]
    assert read_table(tmp_path / "edges.parquet").schema.names == SCHEMAS["edges"].names
    strong = read_table(tmp_path / "edges.parquet", ["lower_word", "criterion"], [("drawn", "=", "strong")])
    assert strong.to_pylist() == [{"lower_word": 7, "criterion": "likelihood"}]
    none = read_table(tmp_path / "nodes.parquet", ["word"], [("criterion", "=", "effect")])
    assert (none.num_rows, none.column_names) == (0, ["word"])


@pytest.mark.parametrize("text", ["class:0", "image:20417"])
def test_graph_ids_are_what_tables_say(text: str) -> None:
    found = GraphId.parse(text)
    assert str(found) == text
    assert found == GraphId(found.kind, int(text[6:]))
    assert found.is_image == text.startswith("image")


@pytest.mark.parametrize("text", ["", "class", "class:", "class:x", "class:-1", "image:1:2", "path:3", "3"])
def test_other_texts_are_no_graph_ids(text: str) -> None:
    with pytest.raises(DataError, match=rf"graph: must be class:<id> or image:<id>, got '{text}'"):
        GraphId.parse(text)
