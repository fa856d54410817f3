"""Similarity matrices: distances between the words of every layer, ordered by dominant class (IG Fig. 4, top left)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib import colormaps
from PIL import Image
from scipy.optimize import isotonic_regression

from workflows.report.lettering import LINE_HEIGHT, fit_text, longest, printable, short_name, text_width, wrap_text
from workflows.report.numbers import percent
from workflows.report.page import DPI, Page, pixels
from workflows.report.page_sizes import A4_HEIGHT, A4_WIDTH, MARGIN
from workflows.report.palette import GREY, class_colour, rgb
from workflows.report.placement import Box

_HEADING_SIZE, _DETAIL_SIZE, _TITLE_SIZE, _LABEL_SIZE = 12.0, 7.5, 8.0, 6.0
_HEADER = _HEADING_SIZE * LINE_HEIGHT + _DETAIL_SIZE * LINE_HEIGHT + 12
_TITLE = (_TITLE_SIZE + _DETAIL_SIZE) * LINE_HEIGHT + 5
_STRIP, _LEADER, _WIDEST_NAME = 5.0, 9.0, 62.0
_NUMBERS, _SMALLEST = 16.0, 2.5  # room for the numbers of words, and the smallest of them that are read
_BAR, _BAR_WIDTH = 6.0, 90.0
_PANEL_SPACE = 18.0  # between panels, both ways
_MOST_NAMES = 20
_COLOURS = "viridis"
_LOWEST = 2  # percentile at which the colours begin; the middle colour is the median, whatever a few far words do
_LEADER_COLOUR = "#9aa0a8"
_EXPLANATION = (
    "Euclidean distance between the centres of every two words of a layer; words without a training column are left "
    "out. Words are ordered by their most frequent class (colours at the left and on top) and within it by its share. "
    "At the right: numbers of words (of the first word of a class where there are many). "
    f"Dark: near; bright: far; the colours begin at the {_LOWEST}nd percentile of the layer's distances, and "
    "its median has the middle colour. "
    "Dominant share: of the columns whose class is their word's. Within / between: mean distance between the words of "
    "two columns whose words have one dominant class, over that of different ones."
)


@dataclass(frozen=True, eq=False)
class LayerSimilarity:
    """The matrix of one layer.

    ``distances`` are in layer units, ``dominant`` is the most frequent class of each word (-1: no columns, the word
    is left out), ``share`` its share. ``dominant_share`` is the share of the columns whose class is their word's,
    ``ratio`` the mean distance within a class over that between classes, over pairs of columns (None: no such pair).
    """

    title: str
    distances: Float[np.ndarray, "K K"]
    dominant: Int[np.ndarray, " K"]
    share: Float[np.ndarray, " K"]
    dominant_share: float
    ratio: float | None

    @property
    def order(self) -> Int[np.ndarray, " used"]:
        """The words shown: by dominant class, then by its share, largest first, then by number."""
        used = np.flatnonzero(self.dominant >= 0)
        return used[np.lexsort((used, -self.share[used], self.dominant[used]))]


@dataclass(frozen=True)
class ClassBlock:
    """Neighbouring words of one dominant class: places [start, stop) of the matrix."""

    label: int
    start: int
    stop: int


def draw_similarity_figure(
    layers: Sequence[LayerSimilarity], class_names: Sequence[str], png: Path, svg: Path, *, network: str, scope: str
) -> None:
    """Draw the matrices of all layers of a run, lowest first, and write both files."""
    similarity_page(layers, class_names, network=network, scope=scope).save(png, svg)


def similarity_page(layers: Sequence[LayerSimilarity], class_names: Sequence[str], *, network: str, scope: str) -> Page:
    """The page, drawn and not yet saved: one panel a layer, two beside each other."""
    columns = min(len(layers), 2)
    rows = -(-len(layers) // columns)
    names = min(_WIDEST_NAME, _names_width(layers, class_names))
    width = (A4_WIDTH - 2 * MARGIN - (columns - 1) * _PANEL_SPACE) / columns
    lines = wrap_text(_EXPLANATION, A4_WIDTH - 2 * MARGIN, _LABEL_SIZE)
    around = 2 * MARGIN + _HEADER + len(lines) * _LABEL_SIZE * LINE_HEIGHT
    beside = _TITLE + _STRIP + 1 + 3 + _LABEL_SIZE * LINE_HEIGHT
    # Six layers fit A4, more make the page longer.
    highest = (A4_HEIGHT - around) / min(rows, 3) - beside - _PANEL_SPACE
    side = min(width - names - _LEADER - _STRIP - 1 - _NUMBERS, highest, 330.0)
    height = beside + side
    body = rows * (height + _PANEL_SPACE)
    page = Page(A4_WIDTH, around + body)
    page.text(MARGIN, MARGIN, "Distances between words, layer by layer", _HEADING_SIZE, bold=True, kind="heading")
    details = fit_text(f"{printable(network)} · scope {printable(scope)}", A4_WIDTH - 2 * MARGIN, _DETAIL_SIZE)
    below = MARGIN + _HEADING_SIZE * LINE_HEIGHT + 1
    page.text(MARGIN, below, details, _DETAIL_SIZE, color=GREY, kind="heading")
    for index, layer in enumerate(layers):
        x = MARGIN + index % columns * (width + _PANEL_SPACE)
        y = MARGIN + _HEADER + index // columns * (height + _PANEL_SPACE)
        _draw_panel(page, Box(x, y, width, height), layer, class_names, names, side)
    for index, line in enumerate(lines):
        top = MARGIN + _HEADER + body + index * _LABEL_SIZE * LINE_HEIGHT
        page.text(MARGIN, top, line, _LABEL_SIZE, color=GREY, kind="legend")
    return page


def class_blocks(dominant: Int[np.ndarray, " used"]) -> list[ClassBlock]:
    """Runs of equal class in words that are ordered by class."""
    starts = np.flatnonzero(np.diff(dominant, prepend=-1))
    stops = [*starts[1:].tolist(), len(dominant)]
    return [ClassBlock(int(dominant[start]), int(start), stop) for start, stop in zip(starts, stops, strict=True)]


def named_blocks(blocks: Sequence[ClassBlock], most: int) -> list[ClassBlock]:
    """The largest blocks (ties: the earlier class), at most ``most``, in the order of the matrix."""
    largest = sorted(blocks, key=lambda block: (block.start - block.stop, block.start))[:most]
    return sorted(largest, key=lambda block: block.start)


def _names_width(layers: Sequence[LayerSimilarity], class_names: Sequence[str]) -> float:
    shown = {int(label) for layer in layers for label in np.unique(layer.dominant[layer.dominant >= 0])}
    return longest([short_name(class_names[label]) for label in shown], _LABEL_SIZE)


def _draw_panel(
    page: Page, box: Box, layer: LayerSimilarity, class_names: Sequence[str], names: float, side: float
) -> None:
    order = layer.order
    dominant, distances = layer.dominant[order], layer.distances[np.ix_(order, order)]
    low, high = _colour_range(distances)
    shape = _cells(len(order), pixels(side))
    side = shape * 72 / DPI
    left, top = box.x + names + _LEADER + _STRIP + 1, box.y + _TITLE + _STRIP + 1
    _draw_title(page, box, left, layer, len(order))
    scaled = np.clip((distances - low) / (high - low), 0.0, 1.0)
    page.picture(left, top, _matrix(scaled, shape), kind="matrix")
    strip = _strip(dominant, len(class_names), shape)
    page.picture(left - _STRIP - 1, top, np.repeat(strip[:, None], pixels(_STRIP), axis=1), kind="classes")
    page.picture(left, top - _STRIP - 1, np.repeat(strip[None], pixels(_STRIP), axis=0), kind="classes")
    _draw_names(page, Box(left - _STRIP - 1, top, 0, side), class_blocks(dominant), class_names, names)
    _draw_numbers(page, Box(left + side + 2, top, _NUMBERS, side), order, dominant)
    _draw_colour_bar(page, Box(left, top + side + 3, min(_BAR_WIDTH, side / 2), _LABEL_SIZE * LINE_HEIGHT), (low, high))


def _draw_title(page: Page, box: Box, left: float, layer: LayerSimilarity, used: int) -> None:
    """Two lines that begin above the matrix, or further left where they are long."""
    words = len(layer.dominant)
    count = f" · {words} word{'' if words == 1 else 's'}" if used == words else f" · {used} of {words} words used"
    room = box.width - text_width(count, _TITLE_SIZE, bold=True)
    title = fit_text(printable(layer.title), room, _TITLE_SIZE, bold=True, middle=True) + count
    ratio = "–" if layer.ratio is None else f"{layer.ratio:.2f}"
    numbers = f"dominant share {percent(layer.dominant_share)} · within / between {ratio}"
    for text, size, bold, y in (
        (title, _TITLE_SIZE, True, box.y),
        (numbers, _DETAIL_SIZE, False, box.y + _TITLE_SIZE * LINE_HEIGHT + 1),
    ):
        x = max(box.x, min(left, box.right - text_width(text, size, bold)))
        page.text(x, y, text, size, bold=bold, color="#1a1a1a" if bold else GREY, kind="title")


def _draw_names(page: Page, strip: Box, blocks: Sequence[ClassBlock], class_names: Sequence[str], names: float) -> None:
    """Names of the largest blocks left of the strip, each with a line to the middle of its block."""
    line = _LABEL_SIZE * LINE_HEIGHT
    named = named_blocks(blocks, min(_MOST_NAMES, int(strip.height / line)))
    cell = strip.height / max(blocks[-1].stop, 1)
    middles = [strip.y + (block.start + block.stop) / 2 * cell for block in named]
    places = spread(middles, line, strip.y + line / 2, strip.bottom - line / 2)
    for block, middle, place in zip(named, middles, places, strict=True):
        name = fit_text(short_name(class_names[block.label]), names, _LABEL_SIZE)
        end = strip.x - _LEADER
        page.text(end, place - line / 2, name, _LABEL_SIZE, align="right", kind="class")
        ends = [(end + 1.5, place - 0.2), (strip.x - 1, middle - 0.2), (strip.x - 1, middle + 0.2)]
        page.polygon([*ends, (end + 1.5, place + 0.2)], _LEADER_COLOUR, kind="leader")


def _draw_numbers(page: Page, box: Box, order: Int[np.ndarray, " used"], dominant: Int[np.ndarray, " used"]) -> None:
    """The number of every word beside its row; where rows are too low, of the first word of every class with room."""
    cell = box.height / max(1, len(order))
    size = min(_LABEL_SIZE, cell / LINE_HEIGHT)
    rows = list(range(len(order)))
    if size < _SMALLEST:
        size, starts, rows = 4.0, [block.start for block in class_blocks(dominant)], []
        for start in starts:
            if not rows or (start - rows[-1]) * cell >= size * LINE_HEIGHT:
                rows.append(start)
    for row in rows:
        middle = box.y + (row + 0.5) * cell
        page.text(box.x, middle - size * LINE_HEIGHT / 2, str(order[row]), size, color=GREY, kind="word")


def _draw_colour_bar(page: Page, box: Box, ends: tuple[float, float]) -> None:
    """The colours with the distances at both ends; the box is the colours' and begins with the lower one."""
    ramp = np.linspace(0, 1, pixels(box.width))[None].repeat(pixels(_BAR), axis=0)
    low, high = (f"{value:.3g}" for value in ends)
    bar = box.x + text_width(low, _LABEL_SIZE) + 3
    page.text(box.x, box.y, low, _LABEL_SIZE, color=GREY, kind="scale")
    page.picture(bar, box.y + (box.height - _BAR) / 2, _coloured(ramp), kind="scale")
    page.text(bar + box.width + 3, box.y, high, _LABEL_SIZE, color=GREY, kind="scale")


def _colour_range(distances: Float[np.ndarray, "K K"]) -> tuple[float, float]:
    """Distances at which the colours begin and end; never equal."""
    pairs = distances[np.triu_indices(len(distances), 1)]
    low, median = np.percentile(pairs, (_LOWEST, 50)).tolist() if len(pairs) else (0.0, 0.5)
    high = 2 * median - low
    return (low, high) if high > low else (0.0, median or 1.0)


def _cells(words: int, side: int) -> int:
    """Device pixels of a matrix's side: equal cells where that costs little of the size."""
    return side // words * words if side >= 8 * words else side


def _matrix(values: Float[np.ndarray, "K K"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Cells by repetition, or by averaging where there are more words than pixels."""
    if len(values) > side:
        small = Image.fromarray(values.astype(np.float32)).resize((side, side), Image.Resampling.BOX)
        return _coloured(np.clip(np.asarray(small, dtype=np.float64), 0.0, 1.0))
    cells = np.arange(side) * len(values) // side
    return _coloured(values[np.ix_(cells, cells)])


def _strip(dominant: Int[np.ndarray, " used"], n_classes: int, side: int) -> UInt8[np.ndarray, "side 3"]:
    colours = np.array([rgb(class_colour(int(label), n_classes)) for label in dominant], dtype=np.uint8)
    return colours[np.arange(side) * len(dominant) // side]


def _coloured(levels: Float[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns 3"]:
    return np.rint(colormaps[_COLOURS](levels)[..., :3] * 255).astype(np.uint8)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least ``gap`` apart in [low, high], in the same order, with the least squared distance moved.

    Args:
        wanted: ascending.
        gap: between two neighbouring places.
        low, high: bounds of every place; where they leave too little room, places run beyond ``high``.
    """
    steps = gap * np.arange(len(wanted))
    firsts = isotonic_regression(np.asarray(wanted, np.float64) - steps).x if len(wanted) else steps
    # The least squares within bounds are those without, cut off at the bounds.
    highest = high - gap * (len(wanted) - 1)
    return list(np.maximum(low, np.minimum(firsts, highest)) + steps)
