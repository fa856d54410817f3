"""Inference graphs as networkx objects, read back from the Parquet tables."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from workflows.errors import RunFolderError
from workflows.storage.fields import EFFECT, LIKELIHOOD
from workflows.storage.names import JOINT
from workflows.storage.tables import read_table

if TYPE_CHECKING:
    import networkx as nx

_GRAPH_KEYS = ("graph", "scope", "criterion")
_NODE_KEYS = frozenset({*_GRAPH_KEYS, "network", "layer", "word"})
_EDGE_KEYS = frozenset({*_GRAPH_KEYS, "network", "upper_layer", "upper_word", "lower_layer", "lower_word"})


def to_networkx(
    nodes: pa.Table, edges: pa.Table, graph: str, scope: str = JOINT, criterion: str = LIKELIHOOD
) -> nx.DiGraph:
    """One inference graph (IG Algorithm 1) from rows of the nodes and edges tables.

    Nodes are keyed (layer, word), edges point from the upper word to the lower one. A node or edge carries the other
    columns of its row as attributes, those that are not null; every node also has ``layer`` and ``word``.
    ``DiGraph.graph`` holds ``graph``, ``scope``, ``criterion``, ``network``, and ``layers``: from the output
    downwards in the order of the table, with commas between. So every attribute is text or a number, as the writers
    of networkx (GraphML, GEXF) take them.
    """
    import networkx as nx  # late: who prints a graph needs none

    key = dict(zip(_GRAPH_KEYS, (graph, scope, criterion), strict=True))
    picked = _rows(nodes, key)
    layers = ",".join(dict.fromkeys(row["layer"] for row in picked))
    network = {"network": picked[0].get("network")} if picked else {}
    result = nx.DiGraph(**key, **_known(network), layers=layers)
    for row in picked:
        result.add_node((row["layer"], row["word"]), layer=row["layer"], word=row["word"], **_known(row, _NODE_KEYS))
    for row in _rows(edges, key):
        upper, lower = (row["upper_layer"], row["upper_word"]), (row["lower_layer"], row["lower_word"])
        for end in (upper, lower):
            if end not in result:
                raise RunFolderError(f"edges of {graph!r} name the word {end}, which is not in its nodes")
        result.add_edge(upper, lower, **_known(row, _EDGE_KEYS))
    return result


def load_graph(run_dir: Path | str, graph: str, scope: str = JOINT, criterion: str = LIKELIHOOD) -> nx.DiGraph:
    """The graph ``class:<id>`` or ``image:<id>`` of a run; see ``to_networkx``.

    Raises:
        RunFolderError: the run has no such graph (near ones are offered), or no tables yet.
    """
    wanted = list(zip(_GRAPH_KEYS, ("==",) * 3, (graph, scope, criterion), strict=True))
    nodes = read_table(Path(run_dir) / "nodes.parquet", filters=wanted)
    if nodes.num_rows == 0:
        raise RunFolderError(_no_graph(Path(run_dir), graph, scope, criterion))
    return to_networkx(nodes, read_table(Path(run_dir) / "edges.parquet", filters=wanted), graph, scope, criterion)


def graph_names(run_dir: Path | str, scope: str = JOINT, criterion: str = LIKELIHOOD) -> list[str]:
    """Names of all graphs of a run, in the order of the table."""
    return [name for own, name in scoped_graphs(run_dir, criterion) if own == scope]


def scoped_graphs(run_dir: Path | str, criterion: str = LIKELIHOOD) -> list[tuple[str, str]]:
    """(scope, graph) of all graphs of a run, in the order of the table."""
    path = Path(run_dir) / "nodes.parquet"
    table = read_table(path, columns=["scope", "graph"], filters=[("criterion", "==", criterion)])
    pairs = table.group_by(["scope", "graph"], use_threads=False).aggregate([])
    return list(zip(pairs["scope"].to_pylist(), pairs["graph"].to_pylist(), strict=True))


def graph_item(graph: str, criterion: str) -> str:
    """Name of a graph's figure and of its item: the graph's id, by another criterion than the paper's behind it."""
    return graph if criterion == LIKELIHOOD else f"{criterion}:{graph}"


def criterion_of(item: str) -> tuple[str, str]:
    """Inverse of ``graph_item``: criterion and graph."""
    graph = item.removeprefix(f"{EFFECT}:")
    return (LIKELIHOOD if graph == item else EFFECT), graph


def _rows(table: pa.Table, key: dict[str, str]) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in key.items())]


def _known(row: dict[str, Any], without: frozenset[str] = frozenset()) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in without and value is not None}


def _no_graph(run_dir: Path, graph: str, scope: str, criterion: str) -> str:
    missing = f"the run {str(run_dir)!r} has no graph {graph!r} of scope {scope!r}"
    if criterion != LIKELIHOOD:
        missing += f" by criterion {criterion!r}"
    elsewhere = [other for other, name in scoped_graphs(run_dir, criterion) if name == graph]
    if elsewhere:
        return f"{missing}; scopes with it: {', '.join(elsewhere[:10])}"
    names = graph_names(run_dir, scope, criterion)
    near = difflib.get_close_matches(graph, names, n=3) or names[:3]
    offer = f"; near ones: {', '.join(near)}" if near else ""
    return f"{missing}{offer}"
