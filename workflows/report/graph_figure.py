"""The figure of a class graph (IG Fig. 5) or of an image graph, on one A4 page, as PNG and SVG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.path import Path as Outline

from workflows.report.graph_view import OUTPUT, EdgeView, ExemplarView, GraphView, NodeView
from workflows.report.legend import (
    LINE_WIDTHS,
    REPEATED,
    draw_head,
    draw_legend,
    legend_height,
    legend_lines,
)
from workflows.report.lettering import LINE_HEIGHT, fit_text, named_concept, printable, short_name, text_width
from workflows.report.numbers import frequency, log_ratio, percent
from workflows.report.page import DPI, Page, pixels
from workflows.report.page_sizes import A4_WIDTH, MARGIN, TITLE_SIZE
from workflows.report.palette import ARROWS, GREY
from workflows.report.placement import Box, EdgePlace, NodePlace, PagePlan, plan_page
from workflows.report.thumbnails import CARD, Shape, blank, dotted, fitted, heat_map, thumbnail
from workflows.storage.fields import LIKELIHOOD

_CARD_COLOUR = "#" + "".join(f"{channel:02x}" for channel in CARD)
_HEADER_SIZE, _SUBHEADER_SIZE = 12.0, 7.5
_TITLE_SPACE = 6.0  # between the word and its dominant class
_HEADER = _HEADER_SIZE * LINE_HEIGHT + _SUBHEADER_SIZE * LINE_HEIGHT + 8
_ARROW_CODES = [Outline.MOVETO, Outline.LINETO, *[Outline.CURVE4] * 3, Outline.LINETO]


@dataclass(frozen=True)
class GraphStyle:
    """``rectangle_layers`` highest modelled layers show the receptive field in its image, lower ones the patch."""

    rectangle_layers: int = 2

    def shape(self, depth: int) -> Shape:
        """What thumbnails show ``depth`` layers below the class, which itself shows whole training images."""
        return "whole" if depth == 0 else "rectangle" if depth <= self.rectangle_layers else "patch"


def draw_class_graph(view: GraphView, png: Path, svg: Path, style: GraphStyle | None = None) -> None:
    """Draw the inference graph of a class (IG Fig. 5) and write both files.

    Raises:
        ValueError: the view is of an image graph.
    """
    if view.image is not None:
        raise ValueError(f"graph {view.graph} is an image graph: draw it with draw_image_graph")
    graph_page(view, style).save(png, svg)


def draw_image_graph(view: GraphView, png: Path, svg: Path, style: GraphStyle | None = None) -> None:
    """Draw the inference graph of one image, with a red dot at each position of a word, and write both files.

    Raises:
        ValueError: the view is of a class graph.
    """
    if view.image is None:
        raise ValueError(f"graph {view.graph} is no image graph: draw it with draw_class_graph")
    graph_page(view, style).save(png, svg)


def graph_page(view: GraphView, style: GraphStyle | None = None) -> Page:
    """The page of either graph, drawn and not yet saved."""
    style = style or GraphStyle()
    plan = place_graph(view, style)
    page = Page(plan.width, plan.height)
    _draw_header(page, plan, view)
    for depth, layer in enumerate(view.layers):
        for node in layer:
            _draw_node(page, plan, view, node, style.shape(depth))
    _draw_edges(page, plan)
    draw_legend(page, plan.legend, _legend(view, style))
    return page


def place_graph(view: GraphView, style: GraphStyle | None = None) -> PagePlan:
    """Where everything of the page goes."""
    drawn = view.drawn_edges()
    texts = {long: [text for edge in drawn for text in _chip_texts(edge, long)] for long in (True, False)}
    widths = [_title_width(*_title(view, node)) for layer in view.layers[1:] for node in layer]
    return plan_page(
        view, texts, max(widths, default=0.0), _HEADER, legend_height(_legend(view, style or GraphStyle()))
    )


def _legend(view: GraphView, style: GraphStyle) -> list[str]:
    return legend_lines(view, {style.shape(depth) for depth in range(len(view.layers))}, A4_WIDTH - 2 * MARGIN)


def _draw_header(page: Page, plan: PagePlan, view: GraphView) -> None:
    box, name = plan.header, short_name(view.class_name)
    details = [printable(view.network), f"scope {printable(view.scope)}"]
    if view.image is None:
        heading = f"{'Consensus' if view.is_consensus else 'Inference'} graph of class {name}"
        if view.omega is not None:
            details.append(f"from the {view.omega} validation images predicted {name}")
    else:
        heading = f"Inference graph of image {view.image.image}, predicted {name}"
    if view.criterion != LIKELIHOOD:
        details.append(f"words chosen by {view.criterion}")
    page.text(
        box.x, box.y, fit_text(heading, box.width, _HEADER_SIZE, bold=True), _HEADER_SIZE, bold=True, kind="heading"
    )
    details_text = fit_text(" · ".join(details), box.width, _SUBHEADER_SIZE)
    page.text(box.x, box.y + _HEADER_SIZE * LINE_HEIGHT + 1, details_text, _SUBHEADER_SIZE, color=GREY, kind="heading")


def _draw_node(page: Page, plan: PagePlan, view: GraphView, node: NodeView, shape: Shape) -> None:
    place, sizes = plan.nodes[node.key], plan.sizes
    colours = ("white", GREY) if node.is_unstable else (_CARD_COLOUR, "none")
    page.card(place.card.x, place.card.y, place.card.width, place.card.height, *colours)
    if node.layer == OUTPUT:
        _draw_class_title(page, place, view)
    else:
        _draw_title(page, place.title, *_title(view, node), lines=sizes.title_lines)
    if place.image is not None and view.image is not None:
        side = pixels(place.image.width)
        picture = view.image.picture
        if picture is None:
            shown = blank(side)
        elif node.layer == OUTPUT:
            shown = fitted(picture, side)[0]
        else:
            shown = dotted(picture, node.dots if node.dots is not None else np.empty((0, 2)), side)
        page.picture(place.image.x, place.image.y, shown, kind="image")
    for exemplar, box in zip(node.exemplars, place.thumbnails, strict=True):
        _draw_exemplar(page, exemplar, box, sizes.label, shape)


def _draw_exemplar(page: Page, exemplar: ExemplarView, box: Box, size: float, shape: Shape) -> None:
    page.picture(box.x, box.y, thumbnail(exemplar, pixels(box.width), shape), kind="thumbnail")
    mark = f"{REPEATED} " if exemplar.repeated else ""
    label = fit_text(mark + short_name(exemplar.label), box.width + 2, size)
    page.text(box.middle, box.bottom, label, size, align="center", kind="label")


def _title(view: GraphView, node: NodeView) -> tuple[str, str, str]:
    """Layer and word; dominant class; what stands behind its name: its share, and what the word covers."""
    behind = f"({percent(node.dominant_share)})" if node.dominant_class else percent(node.dominant_share)
    if view.image is not None:
        behind += f" · {percent(node.share)} of positions"
    if node.covered is not None:
        behind += f" · in {node.covered[0]} of {node.covered[1]} runs"
    if node.name:
        behind += f" · “{printable(short_name(node.name))}”"
    if node.concept:
        behind += f" · {printable(named_concept(node.concept, node.iou))}"
    dominant = f"mostly {short_name(node.dominant_class)}" if node.dominant_class else ""
    return f"{printable(view.layer_title(node.layer))} · word {node.word}", dominant, behind


def _draw_title(page: Page, box: Box, head: str, dominant: str, behind: str, *, lines: int) -> None:
    """Head in bold, dominant class and shares after it or below it; the class name gives way where it is too long."""
    size, line = TITLE_SIZE, TITLE_SIZE * LINE_HEIGHT
    if lines == 2:
        head = fit_text(head, box.width, size, bold=True, middle=True)
        tail = f"{fit_text(dominant, box.width - text_width(' ' + behind, size), size)} {behind}"
        page.text(box.middle, box.y, head, size, align="center", bold=True, kind="title")
        page.text(box.middle, box.y + line, tail, size, align="center", color=GREY, kind="title")
        return
    tail = f"{dominant} {behind}"
    left = box.middle - _title_width(head, dominant, behind) / 2
    page.text(left, box.y, head, size, bold=True, kind="title")
    page.text(left + text_width(head, size, bold=True) + _TITLE_SPACE, box.y, tail, size, color=GREY, kind="title")


def _title_width(head: str, dominant: str, behind: str) -> float:
    """Width in points of a title in one line."""
    return text_width(head, TITLE_SIZE, bold=True) + _TITLE_SPACE + text_width(f"{dominant} {behind}", TITLE_SIZE)


def _draw_class_title(page: Page, place: NodePlace, view: GraphView) -> None:
    box, line = place.title, TITLE_SIZE * LINE_HEIGHT
    name = short_name(view.class_name)
    if view.image is None:
        head = f"class {name}"
        below = "the training images with the highest probability of this class" if place.thumbnails else ""
    else:
        known = f", true label {short_name(view.image.true_name)}" if view.image.true_name else ""
        head = f"predicted {name} ({percent(view.image.probability)}){known}"
        below = f"left: this image; right: the training images most probably {name}" if place.thumbnails else ""
    head = fit_text(head, box.width, TITLE_SIZE + 1.5, bold=True)
    page.text(box.middle, box.y - 1, head, TITLE_SIZE + 1.5, align="center", bold=True, kind="title")
    below = fit_text(below, box.width, TITLE_SIZE)
    page.text(box.middle, box.y + line + 1.5, below, TITLE_SIZE, align="center", color=GREY, kind="title")


def _chip_texts(edge: EdgeView, long: bool) -> tuple[str, str]:
    return frequency(edge.relative_frequency, long), log_ratio(edge.log_ratio, long)


def _draw_edges(page: Page, plan: PagePlan) -> None:
    """All lines first, so that no line's white border cuts a head."""
    for place in sorted(plan.edges, key=lambda place: -abs(place.x - place.end_x)):  # short arrows on top
        color, width = ARROWS[place.edge.drawn], LINE_WIDTHS[place.edge.drawn]
        page.curve(Outline(place.vertices, _ARROW_CODES), color, width, dashed=place.edge.is_unsure)
    for place in plan.edges:
        draw_head(page, (place.end_x, place.end), (0, -1), ARROWS[place.edge.drawn])
        _draw_chip(page, plan, place)


def _draw_chip(page: Page, plan: PagePlan, place: EdgePlace) -> None:
    style, chip = plan.sizes.chip, place.chip
    left, right = _chip_texts(place.edge, style.inline)
    color = ARROWS[place.edge.drawn]
    beside = style.heat / 2 + 2 if style.inline else 1.6
    line = style.size * LINE_HEIGHT
    y = chip.y + (chip.height - line) / 2 if style.inline else chip.bottom - line
    page.text(place.x - beside, y, left, style.size, align="right", color=color, kind="frequency")
    page.text(place.x + beside, y, right, style.size, bold=False, color=color, kind="log ratio")
    if place.edge.heat is not None:
        picture = heat_map(place.edge.heat, pixels(style.heat))
        width, height = picture.shape[1] * 72 / DPI, picture.shape[0] * 72 / DPI
        top = chip.y + (style.heat - height) / 2
        page.picture(place.x - width / 2, top, picture, kind="heat map")
