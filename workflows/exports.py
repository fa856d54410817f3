"""Inference graphs as files for other programs: GraphML, GEXF, JSON, Cytoscape's JSON and DOT.

Every value is text or a number of its table's type, so that an attribute is one column in whatever reads it.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflows.errors import RunError
from workflows.storage.atomic import write_bytes
from workflows.storage.labels import WordNames

if TYPE_CHECKING:
    import networkx as nx

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML cannot hold, not even escaped."""

FORMATS = ("graphml", "gexf", "json", "cytoscape", "dot")


def export_graph(graph: nx.DiGraph, format_: str, path: Path, names: WordNames | None = None) -> None:
    """Write a graph of ``Run.graph``, whole or not at all.

    Args:
        graph: nodes keyed (layer, word), edges from the upper word to the lower.
        format_: one of ``FORMATS``.
        path: the file; replaced if it is there.
        names: users' names of words; they become part of the labels.

    Raises:
        RunError: no such format.
    """
    if format_ not in _WRITERS:
        raise RunError(f"export: --format must be one of {', '.join(FORMATS)}, got {format_!r}")
    write_bytes(path, _WRITERS[format_](plain_graph(graph, names or {})).encode("utf-8"))


def plain_graph(graph: nx.DiGraph, names: WordNames) -> nx.DiGraph:
    """The same with node ids ``layer:word``, a ``label`` each, and clean values: no NaN, no control characters."""
    import networkx as nx

    plain = nx.DiGraph(**_clean(graph.graph))
    for (layer, word), known in graph.nodes(data=True):
        name = names.get((layer, word))
        label = f"{layer} word {word}" if name is None else f"{layer} word {word}: {name}"
        if layer == "output":
            label = known.get("dominant_name") or f"class {word}"
        own = {**known, "label": label, **({} if name is None else {"word_name": name})}
        plain.add_node(f"{layer}:{word}", **_clean(own))
    for (upper_layer, upper), (lower_layer, lower), known in graph.edges(data=True):
        plain.add_edge(f"{upper_layer}:{upper}", f"{lower_layer}:{lower}", **_clean(known))
    return plain


def _clean(values: Mapping[str, Any]) -> dict[str, Any]:
    cleaned = {name: _NO_XML.sub("", value) if isinstance(value, str) else value for name, value in values.items()}
    return {
        name: value
        for name, value in cleaned.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }


def _graphml(graph: nx.DiGraph) -> str:
    import networkx as nx

    return "\n".join(nx.generate_graphml(graph, named_key_ids=True)) + "\n"


def _gexf(graph: nx.DiGraph) -> str:
    """GEXF has no attributes of a whole graph: they become attributes of the node of the class."""
    import networkx as nx

    top = next(iter(graph), None)
    if top is not None:
        graph = graph.copy()
        graph.nodes[top].update({f"graph_{name}": value for name, value in graph.graph.items()})
    file = io.BytesIO()
    nx.write_gexf(graph, file)
    return file.getvalue().decode("utf-8") + "\n"


def _json(graph: nx.DiGraph) -> str:
    import networkx as nx

    return json.dumps(nx.node_link_data(graph, edges="edges"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _cytoscape(graph: nx.DiGraph) -> str:
    nodes = [{"data": {**known, "id": node}} for node, known in graph.nodes(data=True)]
    edges = [
        {"data": {**known, "id": f"{upper} {lower}", "source": upper, "target": lower}}
        for upper, lower, known in graph.edges(data=True)
    ]
    content = {"data": dict(graph.graph), "directed": True, "elements": {"nodes": nodes, "edges": edges}}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _dot(graph: nx.DiGraph) -> str:
    """Words lead to the upper words that they speak for, as in the figures: the class stands on top.

    Attributes of the graph have `graph_` before them: `graph` is a word of the language.
    """
    lines = [
        "digraph {",
        "  rankdir=BT;",
        *(f"  graph_{name}={_quoted(value)};" for name, value in graph.graph.items()),
    ]
    lines += [f"  {_quoted(node)} [{_attributes(known)}];" for node, known in graph.nodes(data=True)]
    lines += [
        f"  {_quoted(lower)} -> {_quoted(upper)} [{_attributes(known)}];"
        for upper, lower, known in graph.edges(data=True)
    ]
    return "\n".join([*lines, "}"]) + "\n"


def _attributes(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _quoted(value: object) -> str:
    r"""A string of DOT, in which ``\``, ``"`` and line ends would be read as its own."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\r", "").replace("\n", "\\n")
    return f'"{text}"'


_WRITERS: dict[str, Callable[[Any], str]] = {
    "graphml": _graphml,
    "gexf": _gexf,
    "json": _json,
    "cytoscape": _cytoscape,
    "dot": _dot,
}
