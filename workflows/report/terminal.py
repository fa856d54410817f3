"""A graph as a table for the terminal, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from workflows.report.graph_view import OUTPUT, EdgeView, GraphView, NodeView
from workflows.report.lettering import short_name
from workflows.report.numbers import frequency, log_ratio, percent
from workflows.storage.fields import LIKELIHOOD
from workflows.storage.names import JOINT

UNSURE = "?"
"""Behind what other images might well not show."""


def graph_table(view: GraphView) -> RenderableType:
    """A class or image graph from the class down: each word with the upper words it speaks for.

    Log ratios of strong edges are green, as the arrows of the figure; how many edges no figure draws is told below.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    covers = [("name", 0)] if _has_names(view) else []
    covers += [("covers", 0), ("IoU", 3)] if _has_concepts(view) else []
    for name, width in (
        ("layer", 0), ("word", 4), ("mostly", 0), ("", 5), *covers, ("positions", 9), ("speaks for", 0)
    ):  # fmt: skip
        # Where the terminal is too narrow rich takes width from columns that may wrap: the names, never the numbers.
        justify: Literal["left", "right"] = "left" if name in ("layer", "mostly", "name", "covers") else "right"
        table.add_column(name, justify=justify, no_wrap=width > 0, min_width=width or None)
    table.add_column("freq.", justify="right", no_wrap=True, min_width=5)
    table.add_column("log ratio", justify="right", no_wrap=True, min_width=9)
    outgoing: dict[tuple[str, int], list[EdgeView]] = {}
    for edge in view.drawn_edges():
        outgoing.setdefault(edge.lower, []).append(edge)
    for depth, layer in enumerate(view.layers[1:], start=1):
        above = {node.key: place for place, node in enumerate(view.layers[depth - 1])}
        for place, node in enumerate(layer):
            edges = sorted(outgoing.get(node.key, []), key=lambda edge: above[edge.upper])
            _add_node(table, view, node, edges, first=place == 0)
        table.add_section()
    parts: list[RenderableType] = [_heading(view), table]
    if hidden := len(view.edges) - len(view.drawn_edges()):
        parts.append(Text(f"{hidden} edge{'s' * (hidden != 1)} with a log ratio of 0 or below not shown", style="dim"))
    parts += [Text(words, style="dim") for words in _marks(view)]
    return Group(*parts)


def _marks(view: GraphView) -> Iterator[str]:
    """What the marks of this graph mean."""
    if any(node.is_unstable for layer in view.layers for node in layer):
        yield f"word {UNSURE}: fewer than half of 200 resamplings of the images choose it"
    if any(edge.is_unsure for edge in view.drawn_edges()):
        yield f"log ratio {UNSURE}: its 95 % interval reaches 0"


def _has_concepts(view: GraphView) -> bool:
    """Whether the study dissect has named a word of the graph."""
    return any(node.concept for layer in view.layers for node in layer)


def _has_names(view: GraphView) -> bool:
    """Whether users named a word of the graph."""
    return any(node.name for layer in view.layers for node in layer)


def _iou(node: NodeView) -> str:
    return frequency(node.iou, long=False) if node.concept else ""


def _heading(view: GraphView) -> Text:
    name = short_name(view.class_name)
    if view.image is None:
        heading = Text(f"Inference graph of class {name}", style="bold")
        if view.omega is not None:
            heading.append(f", from the {view.omega} validation images predicted {name}", style="not bold")
        return heading.append(_scope(view), style="not bold")
    heading = Text(f"Inference graph of image {view.image.image}", style="bold")
    known = f", true label {short_name(view.image.true_name)}" if view.image.true_name else ""
    verdict = f": predicted {name} ({percent(view.image.probability)}){known}"
    return heading.append(verdict + _scope(view), style="not bold")


def _scope(view: GraphView) -> str:
    """Whose words they are and how chosen, where not all classes' and not by the paper's Algorithm 1."""
    scope = "" if view.scope == JOINT else f", scope {view.scope}"
    return scope if view.criterion == LIKELIHOOD else f"{scope}, by {view.criterion}"


def _name(name: str) -> Text:
    """A name on one line, shortened to the width of its column."""
    return Text(name, no_wrap=True, overflow="ellipsis")


def _add_node(table: Table, view: GraphView, node: NodeView, edges: Sequence[EdgeView], first: bool) -> None:
    """A row for each edge; the word itself only in the first."""
    own = [
        _name(view.layer_title(node.layer) if first else ""),
        Text(f"{node.word}{UNSURE * node.is_unstable}", style="bold"),
        _name(short_name(node.dominant_class)),
        Text(percent(node.dominant_share)),
        *([_name(node.name or "–")] if _has_names(view) else []),
        *([_name(short_name(node.concept) or "–"), Text(_iou(node))] if _has_concepts(view) else []),
        Text(percent(node.share)),
    ]
    if not edges:
        table.add_row(*own, Text("–"), Text("–"), Text("–"))
    for index, edge in enumerate(edges):
        layer, word = edge.upper
        target = short_name(view.class_name) if layer == OUTPUT else f"word {word}"
        value = f"{log_ratio(edge.log_ratio)}{UNSURE * edge.is_unsure}"
        ratio = Text(value, style="green" if edge.drawn == "strong" else "")
        blank = [Text("")] * len(own)
        table.add_row(*(blank if index else own), _name(target), Text(frequency(edge.relative_frequency)), ratio)
