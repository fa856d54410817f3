"""Graphs written for other programs are read back whole by them, whatever stands in names."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import networkx as nx
import pydot
import pytest

from tests.end_to_end.small_digits import command
from workflows.exports import FORMATS, export_graph
from workflows.run import open_run

# pydot calls functions of pyparsing by names that are going out.
pytestmark = pytest.mark.filterwarnings("ignore::pyparsing.warnings.PyparsingDeprecationWarning")

STRANGE = 'a "b" \\ <c> & [d];\n} node [x] \x07 é 猫 🐈'


@pytest.fixture
def strange() -> nx.DiGraph:
    graph = nx.DiGraph(graph="class:3", scope="joint", network=STRANGE)
    graph.add_node(("output", 3), layer="output", word=3, score=0.0, dominant_name=STRANGE)
    graph.add_node(("a/b:c", 1), layer="a/b:c", word=1, score=1.0, dominant_name="one", share=float("nan"))
    graph.add_node(("a/b:c", 2), layer="a/b:c", word=2, score=2.5, dominant_name=STRANGE)
    graph.add_edge(("output", 3), ("a/b:c", 1), count=7, log_ratio=float("-inf"))
    graph.add_edge(("output", 3), ("a/b:c", 2), count=9, log_ratio=1.25)
    return graph


def read_back(path: Path, format_: str) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str], dict[str, Any]]]:
    """Nodes and edges, edges from the upper word."""
    if format_ == "dot":
        (graph,) = pydot.graph_from_dot_file(str(path)) or ()
        nodes = {one.get_name().strip('"'): plain(one.get_attributes()) for one in graph.get_nodes()}
        edges = {
            (str(one.get_destination()).strip('"'), str(one.get_source()).strip('"')): plain(one.get_attributes())
            for one in graph.get_edges()
        }
        return nodes, edges
    if format_ == "cytoscape":
        found = json.loads(path.read_text(encoding="utf-8"))["elements"]
        nodes = {one["data"]["id"]: one["data"] for one in found["nodes"]}
        return nodes, {(one["data"]["source"], one["data"]["target"]): one["data"] for one in found["edges"]}
    if format_ == "json":
        read = nx.node_link_graph(json.loads(path.read_text(encoding="utf-8")), edges="edges")
    else:
        read = {"graphml": nx.read_graphml, "gexf": nx.read_gexf}[format_](path)
    return dict(read.nodes(data=True)), {(a, b): known for a, b, known in read.edges(data=True)}


def plain(attributes: dict[str, Any]) -> dict[str, Any]:
    texts = {name: str(value).strip('"').replace('\\"', '"') for name, value in attributes.items()}
    return {name: text.replace("\\n", "\n").replace("\\\\", "\\") for name, text in texts.items()}


@pytest.mark.parametrize("format_", FORMATS)
def test_strange_names_are_read_back(strange: nx.DiGraph, tmp_path: Path, format_: str) -> None:
    path = tmp_path / "graph"
    export_graph(strange, format_, path, {("a/b:c", 1): "wheel"})
    nodes, edges = read_back(path, format_)
    assert list(nodes) == ["output:3", "a/b:c:1", "a/b:c:2"]
    assert set(edges) == {("output:3", "a/b:c:1"), ("output:3", "a/b:c:2")}
    assert nodes["a/b:c:2"]["dominant_name"] == STRANGE.replace("\x07", "")
    assert nodes["a/b:c:1"]["label"] == "a/b:c word 1: wheel"
    assert "share" not in nodes["a/b:c:1"]
    assert "log_ratio" not in edges["output:3", "a/b:c:1"]
    assert float(edges["output:3", "a/b:c:2"]["log_ratio"]) == 1.25
    assert float(nodes["output:3"]["score"]) == 0.0
    if format_ not in ("dot", "cytoscape"):
        assert isinstance(nodes["output:3"]["score"], float)
    if format_ in ("graphml", "gexf"):
        ET.parse(path)  # well formed, control characters and all


@pytest.mark.parametrize("format_", FORMATS)
def test_a_graph_of_a_run_is_the_same_in_every_format(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format_: str
) -> None:
    path = tmp_path / "graph"
    assert command(["export", str(digits_run), "--class", "3", "--format", format_, "--out", str(path)]) == 0
    assert "class:3 of scope joint" in capsys.readouterr().out
    graph = open_run(digits_run).graph("class:3")
    nodes, edges = read_back(path, format_)
    assert set(nodes) == {f"{layer}:{word}" for layer, word in graph}
    assert len(edges) == graph.number_of_edges()
    for (layer, word), known in graph.nodes(data=True):
        assert float(nodes[f"{layer}:{word}"]["score"]) == pytest.approx(known["score"], rel=1e-9)


def test_a_file_is_called_like_its_graph(digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(["export", str(digits_run), "--class", "3", "--format", "cytoscape"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["class-3.cyjs"]


def test_bad_requests_are_told(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, told in (
        ([], "export: give one of --class NAME and --image ID"),
        (["--class", "seven"], "no class 'seven'"),
        (["--image", "100000"], "image 100000 is no image of this run"),
    ):
        assert command(["export", str(digits_run), *arguments]) == 2
        assert told in " ".join(capsys.readouterr().err.split())
