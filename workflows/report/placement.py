"""Where everything of a graph figure goes: boxes in points from the page's top left corner, nothing drawn yet.

One row for each layer, the class on top. Every word has a card in a slot of its row. An arrow leaves the top of the
lower word's card straight upwards, passes its own chip (relative frequency, heat map, log ratio) and only then bends
to the upper card: above the cards the stems stand side by side, so no chip ever meets another chip or a foreign arrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workflows.report.graph_view import EdgeView, GraphView, NodeKey
from workflows.report.ordering import order_layers
from workflows.report.page_sizes import (
    CARD_SPACE,
    CHIP_SPACE,
    CLASS_TITLE_HEIGHT,
    LEGEND_SPACE,
    MARGIN,
    PADDING,
    Sizes,
    page_sizes,
)


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Right end."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Lower end."""
        return self.y + self.height

    @property
    def middle(self) -> float:
        """Horizontal centre."""
        return self.x + self.width / 2


@dataclass(frozen=True)
class NodePlace:
    """A card: its title, the explained image (or None), and a box for each thumbnail (its label hangs below)."""

    card: Box
    title: Box
    image: Box | None
    thumbnails: tuple[Box, ...]


@dataclass(frozen=True)
class EdgePlace:
    """An arrow from (x, start) straight up past its chip to (x, bend), then in a curve to its tip (end_x, end)."""

    edge: EdgeView
    x: float
    start: float
    bend: float
    end_x: float
    end: float
    chip: Box

    @property
    def vertices(self) -> list[tuple[float, float]]:
        """Start, end of the straight stem, three points of a cubic curve, and the line's end inside the head."""
        foot = self.end + 9.0  # the curve arrives upright below the head
        middle = (self.bend + foot) / 2
        curve = [(self.x, middle), (self.end_x, middle), (self.end_x, foot)]
        return [(self.x, self.start), (self.x, self.bend), *curve, (self.end_x, self.end + 5.0)]


@dataclass(frozen=True)
class PagePlan:
    """A whole page; ``height`` is at most A4's unless there are more layers than fit."""

    width: float
    height: float
    sizes: Sizes
    nodes: Mapping[NodeKey, NodePlace]
    edges: tuple[EdgePlace, ...]
    header: Box
    legend: Box


def plan_page(
    view: GraphView, chip_texts: Mapping[bool, Sequence[str]], title_width: float, header: float, legend: float
) -> PagePlan:
    """Place a graph on a page.

    Args:
        view: the graph.
        chip_texts: the numbers on all chips, in their long (True, chips in one line) and short (False) writing.
        title_width: of the longest title in points; if it is too long for a slot all titles take two lines.
        header: height of the heading in points.
        legend: height of the legend in points.
    """
    order = _order(view)
    sizes = page_sizes(view, chip_texts, title_width, header + legend)
    nodes: dict[NodeKey, NodePlace] = {}
    y = MARGIN + header
    for depth, keys in enumerate(order):
        if depth:
            y += sizes.chip.height + sizes.curve + CHIP_SPACE
        for place, key in enumerate(keys):
            middle = sizes.width / 2 + (place - (len(keys) - 1) / 2) * sizes.slot
            nodes[key] = _class_place(view, sizes, y) if not depth else _word_place(view, key, sizes, middle, y)
        y = nodes[keys[0]].card.bottom
    edges = _edge_places(view, order, nodes, sizes)
    bottom = y + LEGEND_SPACE
    legend_box = Box(MARGIN, bottom, sizes.width - 2 * MARGIN, legend)
    header_box = Box(MARGIN, MARGIN, sizes.width - 2 * MARGIN, header)
    return PagePlan(sizes.width, bottom + legend + MARGIN, sizes, nodes, edges, header_box, legend_box)


def _order(view: GraphView) -> list[list[NodeKey]]:
    """Node keys of each layer from left to right."""
    pairs: list[list[tuple[int, int]]] = [[] for _ in view.layers[1:]]
    for edge in view.drawn_edges():
        pairs[view.depth[edge.upper]].append((edge.upper[1], edge.lower[1]))
    words = order_layers([[node.word for node in layer] for layer in view.layers], pairs)
    return [[(layer[0].layer, word) for word in ordered] for layer, ordered in zip(view.layers, words, strict=True)]


def _class_place(view: GraphView, sizes: Sizes, y: float) -> NodePlace:
    """The class node: one row of training images, for an image graph after the image itself."""
    side, count = sizes.class_thumbnail, len(view.root.exemplars)
    image_side = side + sizes.label_height if view.image is not None else 0.0
    space = 10.0 if view.image is not None and count else 0.0
    thumbnails_width = count * side + max(count - 1, 0) * PADDING
    width = max(image_side + space + thumbnails_width + 2 * PADDING, 330.0)
    title_height = CLASS_TITLE_HEIGHT
    card = Box((sizes.width - width) / 2, y, width, title_height + max(side + sizes.label_height, 4) + 2 * PADDING)
    left = card.middle - (image_side + space + thumbnails_width) / 2
    top = y + PADDING + title_height
    image = Box(left, top, image_side, image_side) if view.image is not None else None
    first = left + image_side + space
    thumbnails = tuple(Box(first + i * (side + PADDING), top, side, side) for i in range(count))
    return NodePlace(card, Box(card.x + PADDING, y + PADDING, width - 2 * PADDING, title_height), image, thumbnails)


def _word_place(view: GraphView, key: NodeKey, sizes: Sizes, middle: float, y: float) -> NodePlace:
    """A word: the dotted image (image graph) on the left, the grid of exemplars on the right."""
    side = sizes.thumbnail
    line = side + sizes.label_height + PADDING
    body = sizes.rows * line - PADDING
    image_side = body if view.image is not None else 0.0
    space = 2 * PADDING if view.image is not None else 0.0
    node = next(node for node in view.layers[view.depth[key]] if node.key == key)
    grid = sizes.columns * side + (sizes.columns - 1) * PADDING
    width = sizes.slot - CARD_SPACE
    card = Box(middle - width / 2, y, width, sizes.title_height + body + 2 * PADDING)
    left, top = middle - (image_side + space + grid) / 2, y + PADDING + sizes.title_height
    image = Box(left, top, image_side, image_side) if view.image is not None else None
    thumbnails = tuple(
        Box(
            left + image_side + space + (i % sizes.columns) * (side + PADDING),
            top + (i // sizes.columns) * line,
            side,
            side,
        )
        for i in range(len(node.exemplars))
    )
    return NodePlace(card, Box(card.x + PADDING, y + 2, width - 2 * PADDING, sizes.title_height), image, thumbnails)


def _edge_places(
    view: GraphView, order: Sequence[Sequence[NodeKey]], nodes: Mapping[NodeKey, NodePlace], sizes: Sizes
) -> tuple[EdgePlace, ...]:
    """Stems of a lower word stand in the order of the upper words, arrow heads in the order of the lower words."""
    rank = {key: place for keys in order for place, key in enumerate(keys)}
    out: dict[NodeKey, list[EdgeView]] = {}
    into: dict[NodeKey, list[EdgeView]] = {}
    for edge in view.drawn_edges():
        out.setdefault(edge.lower, []).append(edge)
        into.setdefault(edge.upper, []).append(edge)
    places = []
    for lower, edges in out.items():
        edges.sort(key=lambda edge: rank[edge.upper])
        card = nodes[lower].card
        step = min(sizes.slot / len(edges), max(sizes.chip.width + 8, card.width / len(edges) * 0.9))
        for index, edge in enumerate(edges):
            x = card.middle + (index - (len(edges) - 1) / 2) * step
            chip = Box(
                x - sizes.chip.width / 2, card.y - CHIP_SPACE - sizes.chip.height, sizes.chip.width, sizes.chip.height
            )
            heads = sorted(into[edge.upper], key=lambda other: rank[other.lower])
            end = _head(nodes[edge.upper].card, heads.index(edge), len(heads))
            places.append(EdgePlace(edge, x, card.y, chip.y - 2, end, nodes[edge.upper].card.bottom + 0.5, chip))
    return tuple(places)


def _head(card: Box, index: int, count: int) -> float:
    """Where the arrow heads of an upper card stand."""
    step = min(card.width * 0.8 / count, 40.0)
    return card.middle + (index - (count - 1) / 2) * step
