"""What the arrows, colours and marks of a graph figure mean, said on the figure itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matplotlib.path import Path as Outline

from workflows.report.graph_view import GraphView
from workflows.report.lettering import LINE_HEIGHT, text_width, wrap_text
from workflows.report.page import Page
from workflows.report.palette import ARROWS, GREY
from workflows.report.placement import Box
from workflows.report.thumbnails import Shape
from workflows.storage.log_unit import LOG_UNIT

LINE_WIDTHS: Mapping[str, float] = {"weak": 0.8, "strong": 1.3}
REPEATED = "↻"

_SIZE = 6.5
_LINE = _SIZE * LINE_HEIGHT
_HEAD_LENGTH, _HEAD_HALF_WIDTH = 6.0, 2.4


def legend_lines(view: GraphView, shapes: Iterable[Shape], width: float) -> list[str]:
    """The sentences that this figure needs, wrapped to ``width`` points.

    Args:
        view: the graph.
        shapes: what its thumbnails show.
        width: in points.
    """
    return wrap_text(" ".join(_sentences(view, set(shapes))), width, _SIZE)


def legend_height(lines: list[str]) -> float:
    """Height in points of the legend: one line of samples and the sentences."""
    return (len(lines) + 1) * _LINE + 2


def arrow_samples() -> dict[str, str]:
    """What an arrow of each strength says."""
    return {"weak": f"log ratio up to {LOG_UNIT.doubling}", "strong": f"log ratio above {LOG_UNIT.doubling}"}


def draw_legend(page: Page, box: Box, lines: list[str]) -> None:
    """Sample arrows in the first line, sentences below."""
    x, middle = box.x, box.y + _LINE / 2
    for name, text in arrow_samples().items():
        page.curve(Outline([(x, middle), (x + 16, middle)]), ARROWS[name], LINE_WIDTHS[name])
        draw_head(page, (x + 20, middle), (1, 0), ARROWS[name])
        page.text(x + 24, box.y, text, _SIZE, kind="legend")
        x += 24 + text_width(text, _SIZE) + 14
    page.text(x, box.y, "not drawn: log ratio of 0 or less", _SIZE, kind="legend")
    for index, text in enumerate(lines, start=1):
        page.text(box.x, box.y + index * _LINE + 2, text, _SIZE, color=GREY, kind="legend")


def draw_head(page: Page, tip: tuple[float, float], direction: tuple[int, int], color: str) -> None:
    """An arrow head whose tip points along one axis."""
    (x, y), (dx, dy) = tip, direction
    back_x, back_y = x - dx * _HEAD_LENGTH, y - dy * _HEAD_LENGTH
    side_x, side_y = dy * _HEAD_HALF_WIDTH, dx * _HEAD_HALF_WIDTH
    page.polygon([(x, y), (back_x - side_x, back_y - side_y), (back_x + side_x, back_y + side_y)], color)


def _sentences(view: GraphView, shapes: set[Shape]) -> list[str]:
    drawn = view.drawn_edges()
    exemplars = [item for layer in view.layers[1:] for node in layer for item in node.exemplars]
    whose = "this image" if view.image is not None else "the class's images"
    labelled = any(item.label for item in exemplars)
    named = any(node.concept for layer in view.layers for node in layer)
    said: list[tuple[bool, str]] = [
        (
            bool(drawn),
            "An arrow leads from a lower word to the upper word it speaks for. "
            f"Left of it: relative frequency in {whose}; right: log ratio in {LOG_UNIT.name}.",
        ),
        (
            any(edge.log_ratio <= 0 for edge in drawn),
            "Arrows into the class are drawn whatever their log ratio.",
        ),
        (
            any(edge.heat is not None for edge in drawn),
            "Small map: where in the upper word's window the lower word sits (bright: most; grey: off the map).",
        ),
        (view.image is not None, "Red dots: the word's positions in this image."),
        (labelled, "Under a picture: its true label. Beside a word: the most frequent class of its columns."),
        (bool(exemplars) and not labelled, "Beside a word: the class most often predicted for images of its columns."),
        (named, "Behind it: the concept that the word covers best, and how well (IoU, 1: pixel by pixel)."),
        (bool(exemplars) and "rectangle" in shapes, "Red rectangle: receptive field in the training image."),
        (bool(exemplars) and "patch" in shapes, "Lower layers: the receptive field itself."),
        (any(edge.is_unsure for edge in drawn), "Dashed arrow: the 95 % interval of its log ratio reaches 0."),
        (
            view.is_consensus,
            "In 1 of 2 runs: so many others' graphs cover more than half of its columns; white card in a dashed frame: "
            "those of fewer than half.",
        ),
        (
            not view.is_consensus and any(node.is_unstable for layer in view.layers for node in layer),
            "White card in a dashed frame: fewer than half of 200 resamplings of the images choose the word.",
        ),
        (any(item.repeated for item in exemplars), f"{REPEATED}, faded: an image shown again, for want of more."),
    ]
    return [sentence for needed, sentence in said if needed]
