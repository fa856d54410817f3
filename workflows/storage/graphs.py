"""Inference graphs as networkx objects, read back from the Parquet tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import networkx as nx
import pyarrow as pa

from workflows.errors import RunFolderError
from workflows.storage.tables import read_table

_NODE_KEYS = frozenset({"graph", "scope", "layer", "word", "network"})
_EDGE_KEYS = frozenset({"graph", "scope", "network", "upper_layer", "upper_word", "lower_layer", "lower_word"})


def to_networkx(nodes: pa.Table, edges: pa.Table, graph: str, scope: str = "joint") -> nx.DiGraph:
    """One inference graph (IG Algorithm 1) from rows of the nodes and edges tables.

    Nodes are keyed (layer, word), edges point from the upper word to the lower one. A node or edge carries the other
    columns of its row as attributes; every node also has ``layer`` and ``word``. ``DiGraph.graph`` holds ``graph``,
    ``scope``, ``network`` and ``layers`` (from the output downwards, in the order of the table).
    """
    picked = _rows(nodes, graph, scope)
    result = nx.DiGraph(
        graph=graph,
        scope=scope,
        network=picked[0].get("network") if picked else None,
        layers=list(dict.fromkeys(row["layer"] for row in picked)),
    )
    for row in picked:
        key = (row["layer"], row["word"])
        result.add_node(key, layer=row["layer"], word=row["word"], **_without(row, _NODE_KEYS))
    for row in _rows(edges, graph, scope):
        upper, lower = (row["upper_layer"], row["upper_word"]), (row["lower_layer"], row["lower_word"])
        for key in (upper, lower):
            if key not in result:
                raise RunFolderError(f"edges of {graph!r} name the word {key}, which is not in its nodes")
        result.add_edge(upper, lower, **_without(row, _EDGE_KEYS))
    return result


def load_graph(run_dir: Path | str, graph: str, scope: str = "joint") -> nx.DiGraph:
    """The graph ``class:<id>`` or ``image:<id>`` of a run; see ``to_networkx``.

    Raises:
        RunFolderError: the run has no such graph (near ones are offered), or no tables yet.
    """
    wanted = [("graph", "==", graph), ("scope", "==", scope)]
    nodes = read_table(Path(run_dir) / "nodes.parquet", filters=wanted)
    if nodes.num_rows == 0:
        raise RunFolderError(_no_graph(Path(run_dir), graph, scope))
    return to_networkx(nodes, read_table(Path(run_dir) / "edges.parquet", filters=wanted), graph, scope)


def graph_names(run_dir: Path | str, scope: str = "joint") -> list[str]:
    """Names of all graphs of a run, in the order of the table."""
    table = read_table(Path(run_dir) / "nodes.parquet", columns=["graph"], filters=[("scope", "==", scope)])
    return list(table.column("graph").unique().to_pylist())


def scoped_graphs(run_dir: Path | str) -> list[tuple[str, str]]:
    """(scope, graph) of all graphs of a run, in the order of the table."""
    table = read_table(Path(run_dir) / "nodes.parquet", columns=["scope", "graph"])
    pairs = table.group_by(["scope", "graph"], use_threads=False).aggregate([])
    return list(zip(pairs["scope"].to_pylist(), pairs["graph"].to_pylist(), strict=True))


def _rows(table: pa.Table, graph: str, scope: str) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if row["graph"] == graph and row["scope"] == scope]


def _without(row: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def _no_graph(run_dir: Path, graph: str, scope: str) -> str:
    missing = f"the run {str(run_dir)!r} has no graph {graph!r} of scope {scope!r}"
    elsewhere = [other for other, name in scoped_graphs(run_dir) if name == graph]
    if elsewhere:
        return f"{missing}; scopes with it: {', '.join(elsewhere[:10])}"
    names = graph_names(run_dir, scope)
    near = difflib.get_close_matches(graph, names, n=3) or names[:3]
    offer = f"; near ones: {', '.join(near)}" if near else ""
    return f"{missing}{offer}"
